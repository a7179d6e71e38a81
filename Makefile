# What to do with hello-mq. On a fresh machine with a Rust toolchain, `make demo` and `make test`
# install what else they need. Neither touches a broker that is already running.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

BIN := $(DESTDIR)$(PREFIX)/bin
DOC := $(DESTDIR)$(PREFIX)/share/doc/hello-mq

.PHONY: help build demo picture test test-rabbitmq4 test-faults lint install uninstall clean

help:
	@echo 'make demo              declare, send and receive on a private, throw-away broker'
	@echo 'make test              every check of a newcomer: format, lints, unit and broker tests'
	@echo 'make test-rabbitmq4    what differs on RabbitMQ 4 (root; makes a Debian 13 root once)'
	@echo 'make test-faults       the long fault tests, on both series of RabbitMQ (root, for the same reason)'
	@echo 'make picture           record the picture of README.md: docs/hello-mq.svg'
	@echo 'make build             the program, optimized: target/release/hello-mq'
	@echo 'make install           into PREFIX ($(PREFIX)), under DESTDIR if it is set'
	@echo 'make uninstall clean'

build:
	$(CARGO) build --release --locked

demo: build
	@scripts/setup rabbitmq
	@scripts/with-broker scripts/demo target/release/hello-mq

picture: build
	@scripts/setup rabbitmq recipes
	scripts/with-broker scripts/picture target/release/hello-mq >target/picture.svg
	mkdir -p docs && mv target/picture.svg docs/hello-mq.svg

test: lint
	$(CARGO) test --locked --lib --bins
	@scripts/setup rabbitmq python shells manual recipes
	$(CARGO) test --locked --test rendered
	scripts/with-broker $(CARGO) test --locked --test integration

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

test-rabbitmq4:
	@scripts/setup rabbitmq4
	$(CARGO) test --locked --test rabbitmq4 --no-run
	HELLO_MQ_TEST_SERIES=4 scripts/with-broker --rabbitmq 4 \
		--conf 'deprecated_features.permit.transient_nonexcl_queues = false' \
		$(CARGO) test --locked --test rabbitmq4

# One after the other: each has nodes of its own, and measures.
LONG := $(CARGO) test --release --locked --test long -- --test-threads 1 --nocapture

test-faults:
	@scripts/setup rabbitmq rabbitmq4
	$(LONG)
	HELLO_MQ_TEST_SERIES=4 $(LONG)

# Installing never builds, so that it may run as another user: `make build`, then `make install`.
install:
	@test -x target/release/hello-mq || { echo 'run make build first' >&2; exit 1; }
	install -d '$(BIN)' '$(DOC)'
	install -m 755 target/release/hello-mq '$(BIN)/hello-mq'
	install -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE config.example.toml '$(DOC)'

uninstall:
	rm -f '$(BIN)/hello-mq'
	rm -rf '$(DOC)'

clean:
	$(CARGO) clean
