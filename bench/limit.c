// What librabbitmq can do with the guarantees that hello-mq gives, and nothing else.
//
//   limit send URL QUEUE transient|persistent   a message of each line of standard input
//   limit receive URL QUEUE N                   N bodies to standard output, a line each
//
// Sending is mandatory and confirmed, with as many messages on their way as hello-mq has.
// A message that is read is written and flushed before it is acknowledged, in batches as hello-mq's.
// With amqps:// the authorities are those in SSL_CERT_FILE. librabbitmq sets TCP_NODELAY by itself.
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1000, WINDOW_BYTES = 4 << 20, PREFETCH = 256, BATCH = PREFETCH / 2, BUFFER = 1 << 16 };

static amqp_connection_state_t connection;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "limit: %s: %s\n", what, why);
    exit(1);
}

static void check(int status, const char *what) {
    if (status != AMQP_STATUS_OK) fail(what, amqp_error_string2(status));
}

static void check_reply(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        fail(what, reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION
                       ? amqp_error_string2(reply.library_error) : "the broker refused");
}

static void open_connection(char *url) {
    struct amqp_connection_info info;
    check(amqp_parse_url(url, &info), "URL");
    connection = amqp_new_connection();
    amqp_socket_t *socket;
    if (info.ssl) {
        const char *authorities = getenv("SSL_CERT_FILE");
        socket = amqp_ssl_socket_new(connection);
        check(amqp_ssl_socket_set_cacert(socket, authorities ? authorities : ""), "SSL_CERT_FILE");
    } else {
        socket = amqp_tcp_socket_new(connection);
    }
    check(amqp_socket_open(socket, info.host, info.port), "connect");
    check_reply(amqp_login(connection, info.vhost, 0, AMQP_DEFAULT_FRAME_SIZE, 0,
                           AMQP_SASL_METHOD_PLAIN, info.user, info.password), "log in");
    amqp_channel_open(connection, 1);
    check_reply(amqp_get_rpc_reply(connection), "open a channel");
}

static void close_connection(void) {
    check_reply(amqp_channel_close(connection, 1, AMQP_REPLY_SUCCESS), "close the channel");
    check_reply(amqp_connection_close(connection, AMQP_REPLY_SUCCESS), "close");
    check(amqp_destroy_connection(connection), "close");
}

// The messages on their way, oldest first: the one with tag t is at t % WINDOW.
static struct { size_t bytes; int settled; } window[WINDOW];
static uint64_t oldest = 1, next = 1;
static size_t window_bytes;

static void settle(uint64_t tag, int multiple) {
    if (tag >= next) fail("confirm", "a tag that was never used");
    for (uint64_t t = multiple ? oldest : tag; t <= tag; t++) window[t % WINDOW].settled = 1;
    for (; oldest < next && window[oldest % WINDOW].settled; oldest++)
        window_bytes -= window[oldest % WINDOW].bytes;
}

static int buffered(void) {
    return amqp_frames_enqueued(connection) || amqp_data_in_buffer(connection);
}

// Waits for word of the broker, and notes all that has come.
static void read_confirms(void) {
    do {
        amqp_frame_t frame;
        amqp_maybe_release_buffers(connection);
        check(amqp_simple_wait_frame(connection, &frame), "wait for confirms");
        if (frame.frame_type != AMQP_FRAME_METHOD) continue;
        if (frame.payload.method.id == AMQP_BASIC_ACK_METHOD) {
            amqp_basic_ack_t *ack = frame.payload.method.decoded;
            settle(ack->delivery_tag, ack->multiple);
        } else if (frame.payload.method.id == AMQP_BASIC_RETURN_METHOD) {
            fail("publish", "a message came back");
        } else if (frame.payload.method.id == AMQP_BASIC_NACK_METHOD) {
            fail("publish", "the broker could not take a message");
        } else {
            fail("publish", amqp_method_name(frame.payload.method.id));
        }
    } while (buffered());
}

static void send_lines(const char *queue, int persistent) {
    amqp_confirm_select(connection, 1);
    check_reply(amqp_get_rpc_reply(connection), "turn confirms on");
    amqp_basic_properties_t properties = {
        ._flags = persistent ? AMQP_BASIC_DELIVERY_MODE_FLAG : 0,
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
    };
    amqp_bytes_t key = amqp_cstring_bytes(queue);
    setvbuf(stdin, NULL, _IOFBF, BUFFER);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, stdin)) > 0) {
        if (line[length - 1] == '\n') length--;
        while (next - oldest == WINDOW || window_bytes >= WINDOW_BYTES) read_confirms();
        check(amqp_basic_publish(connection, 1, amqp_empty_bytes, key, 1, 0, &properties,
                                 (amqp_bytes_t){.len = length, .bytes = line}), "publish");
        window[next % WINDOW].bytes = length;
        window[next % WINDOW].settled = 0;
        window_bytes += length;
        next++;
    }
    if (ferror(stdin)) fail("standard input", "read error");
    while (oldest < next) read_confirms();
}

static void receive_lines(const char *queue, uint64_t count) {
    amqp_basic_qos(connection, 1, 0, count < PREFETCH ? count : PREFETCH, 0);
    check_reply(amqp_get_rpc_reply(connection), "set the prefetch");
    amqp_basic_consume(connection, 1, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0,
                       amqp_empty_table);
    check_reply(amqp_get_rpc_reply(connection), "consume");
    setvbuf(stdout, NULL, _IOFBF, BUFFER);
    uint64_t tag = 0, acknowledged = 0, left = 0;
    int header_due = 0;
    while (acknowledged < count) {
        amqp_frame_t frame;
        amqp_maybe_release_buffers(connection);
        check(amqp_simple_wait_frame(connection, &frame), "receive");
        if (frame.frame_type == AMQP_FRAME_METHOD) {
            if (frame.payload.method.id != AMQP_BASIC_DELIVER_METHOD)
                fail("receive", amqp_method_name(frame.payload.method.id));
            tag = ((amqp_basic_deliver_t *)frame.payload.method.decoded)->delivery_tag;
            header_due = 1;
            continue;
        }
        if (frame.frame_type == AMQP_FRAME_HEADER) {
            left = frame.payload.properties.body_size;
            header_due = 0;
        } else if (frame.frame_type == AMQP_FRAME_BODY) {
            fwrite_unlocked(frame.payload.body_fragment.bytes, 1, frame.payload.body_fragment.len, stdout);
            left -= frame.payload.body_fragment.len;
        }
        if (header_due || left > 0) continue;
        if (tag > count) continue; // it goes back when the channel is closed
        putc_unlocked('\n', stdout);
        if (tag == count || tag - acknowledged >= BATCH || !buffered()) {
            if (fflush_unlocked(stdout)) fail("standard output", "write error");
            check(amqp_basic_ack(connection, 1, tag, 1), "acknowledge");
            acknowledged = tag;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 5) fail("usage", "limit send URL QUEUE transient|persistent, limit receive URL QUEUE N");
    open_connection(argv[2]);
    if (!strcmp(argv[1], "send")) {
        send_lines(argv[3], !strcmp(argv[4], "persistent"));
    } else {
        receive_lines(argv[3], strtoull(argv[4], NULL, 10));
    }
    close_connection();
    return 0;
}
