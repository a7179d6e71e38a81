# What to do with hello-mq. On a fresh machine with a Rust toolchain, `make demo` and `make test`
# install what else they need. Neither touches a broker that is already running.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

PROGRAM := $(or $(CARGO_TARGET_DIR),target)/release/hello-mq

# Where a distribution has these elsewhere, it says so: make install ZSHDIR=/usr/share/...
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
DOCDIR ?= $(PREFIX)/share/doc/hello-mq
DOCS := README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE config.example.toml

.PHONY: help build demo picture bench instructions test test-rabbitmq4 test-faults test-packages \
	lint audit compressed deb rpm install uninstall clean

help:
	@echo 'make demo              declare, send and receive on a private, throw-away broker'
	@echo 'make test              every check of a newcomer: format, lints, unit and broker tests'
	@echo 'make test-rabbitmq4    what differs on RabbitMQ 4.0 and 4.3 (root; makes a Debian root for each once)'
	@echo 'make test-faults       the long fault tests, on RabbitMQ as installed and on 4.0 (root, for the same reason)'
	@echo 'make picture           record the picture of README.md: docs/hello-mq.svg'
	@echo 'make bench             how fast it is, against its peers and the limit: bench/RESULTS.md (a quarter of an hour)'
	@echo 'make test-packages     the .deb, the .rpm, the crate, and Debian 13'"'"'s own rustc (root, for the same reason)'
	@echo 'make audit             licences, sources and known weaknesses of the dependencies'
	@echo 'make build             the program, optimized: target/release/hello-mq'
	@echo 'make deb rpm           packages: target/debian/*.deb, target/generate-rpm/*.rpm'
	@echo 'make install           into PREFIX ($(PREFIX)), under DESTDIR if it is set'
	@echo 'make uninstall clean'

build:
	$(CARGO) build --release --locked

demo: build
	@scripts/setup rabbitmq
	@scripts/with-broker scripts/demo $(PROGRAM)

picture: build
	@scripts/setup rabbitmq recipes
	scripts/with-broker scripts/picture $(PROGRAM) >target/picture.svg
	mkdir -p docs && mv target/picture.svg docs/hello-mq.svg

# BENCH_SCALE=10 make bench: a million lines instead of 100,000. BENCH_BEFORE=PATH make bench: an older
# build beside this one.
bench: build
	@scripts/setup rabbitmq bench
	bench/run $(PROGRAM)

test: lint
	$(CARGO) test --locked --lib --bins
	$(MAKE) instructions
	@scripts/setup rabbitmq python shells manual recipes
	$(CARGO) test --locked --test rendered
	scripts/with-broker $(CARGO) test --locked --test integration

# Whether a path that needs no broker takes more instructions than it did: bench/instructions/recorded,
# which BLESS=1 writes anew.
instructions:
	@scripts/setup instructions
	$(CARGO) run --release --locked --quiet -p instructions

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

test-rabbitmq4:
	@scripts/setup rabbitmq4 rabbitmq43
	$(CARGO) test --locked --test rabbitmq4 --no-run
	@set -e; for series in 4 43; do \
		echo "== RabbitMQ $$series"; \
		HELLO_MQ_TEST_SERIES=$$series scripts/with-broker --rabbitmq $$series \
			--conf 'deprecated_features.permit.transient_nonexcl_queues = false' \
			$(CARGO) test --locked --test rabbitmq4; \
	done

# One after the other: each has nodes of its own, and measures. FAULTS names those to run, and FAULTS_4
# those to run on RabbitMQ 4, all if it is empty; FAULT_TIMES is how often a broker is killed, or
# stopped, at each end of a test, 10 and 5 times if it is empty.
FAULTS ?=
FAULTS_4 ?=
FAULT_TIMES ?=
LONG := HELLO_MQ_TEST_TIMES=$(FAULT_TIMES) $(CARGO) test --release --locked --test long -- --test-threads 1 --nocapture

test-faults:
	@scripts/setup rabbitmq rabbitmq4
	$(LONG) $(FAULTS)
	HELLO_MQ_TEST_SERIES=4 $(LONG) $(FAULTS_4)

# The tools that scripts/setup builds come last, so that those of the machine are taken first.
TOOLS := PATH="$$PATH:$(CURDIR)/target/tools/bin"

# What both packages take from target/: the licences of what is linked in, and for cargo-generate-rpm,
# which compresses nothing, the manual.
compressed: build
	rm -rf target/packages
	mkdir -p target/packages
	scripts/third-party >target/packages/third-party-licences.txt
	cp man/*.[15] target/packages
	gzip -9n target/packages/*

deb: compressed
	@scripts/setup deb
	$(TOOLS) $(CARGO) deb --locked --no-build --strip --output target/debian/

rpm: compressed
	@scripts/setup rpm
	mkdir -p target/generate-rpm
	$(TOOLS) $(CARGO) generate-rpm --auto-req find-requires --output target/generate-rpm/

test-packages: deb rpm
	@scripts/setup rabbitmq packages
	scripts/test-packages $(PROGRAM)

audit:
	@scripts/setup audit
	@$(TOOLS) scripts/audit

# Installing never builds, so that it may run as another user: `make build`, then `make install`.
install:
	@test -x $(PROGRAM) || { echo 'run make build first' >&2; exit 1; }
	install -d $(foreach dir,$(BINDIR) $(MANDIR)/man1 $(MANDIR)/man5 $(BASHDIR) $(ZSHDIR) $(FISHDIR) $(DOCDIR),'$(DESTDIR)$(dir)')
	install -m 755 $(PROGRAM) '$(DESTDIR)$(BINDIR)/hello-mq'
	install -m 644 man/*.1 '$(DESTDIR)$(MANDIR)/man1'
	install -m 644 man/*.5 '$(DESTDIR)$(MANDIR)/man5'
	install -m 644 completions/hello-mq.bash '$(DESTDIR)$(BASHDIR)/hello-mq'
	install -m 644 completions/_hello-mq '$(DESTDIR)$(ZSHDIR)/_hello-mq'
	install -m 644 completions/hello-mq.fish '$(DESTDIR)$(FISHDIR)/hello-mq.fish'
	install -m 644 $(DOCS) '$(DESTDIR)$(DOCDIR)'

# Only what install put there, and of the directories the one that is hello-mq's own.
uninstall:
	rm -f '$(DESTDIR)$(BINDIR)/hello-mq'
	rm -f $(foreach page,$(notdir $(wildcard man/*.1)),'$(DESTDIR)$(MANDIR)/man1/$(page)')
	rm -f $(foreach page,$(notdir $(wildcard man/*.5)),'$(DESTDIR)$(MANDIR)/man5/$(page)')
	rm -f '$(DESTDIR)$(BASHDIR)/hello-mq' '$(DESTDIR)$(ZSHDIR)/_hello-mq' '$(DESTDIR)$(FISHDIR)/hello-mq.fish'
	rm -f $(foreach doc,$(DOCS),'$(DESTDIR)$(DOCDIR)/$(doc)')
	rmdir '$(DESTDIR)$(DOCDIR)' 2>/dev/null || true

clean:
	$(CARGO) clean
