"""The work of limit.c as well as pika can do it: SelectConnection, which does not wait for each answer.

    pika_best.py send URL QUEUE transient|persistent    a message of each line of standard input
    pika_best.py receive URL QUEUE N                    N bodies to standard output, a line each
"""
import collections
import sys

import pika

WINDOW, WINDOW_BYTES, PREFETCH = 1000, 4 << 20, 256

what, url, queue, argument = sys.argv[1:]
done = False


def finish():
    global done
    done = True
    connection.close()


class Send:
    """The sizes of the messages on their way, by tag: the window is open again when they are confirmed."""

    def __init__(self, channel):
        self.channel = channel
        self.properties = pika.BasicProperties(delivery_mode=2 if argument == "persistent" else None)
        self.window = collections.OrderedDict()
        self.bytes = 0
        self.tag = 0
        channel.add_on_return_callback(lambda *_: sys.exit("a message came back"))
        channel.confirm_delivery(self.confirmed, callback=lambda _: self.publish())

    def publish(self):
        while len(self.window) < WINDOW and self.bytes < WINDOW_BYTES:
            line = sys.stdin.buffer.readline()
            if not line:
                if not self.window:
                    finish()
                return
            body = line.rstrip(b"\n")
            self.channel.basic_publish("", queue, body, self.properties, mandatory=True)
            self.tag += 1
            self.window[self.tag] = len(body)
            self.bytes += len(body)

    def confirmed(self, frame):
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            sys.exit("the broker could not take a message")
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            while self.window and next(iter(self.window)) <= tag:
                self.bytes -= self.window.popitem(last=False)[1]
        else:
            self.bytes -= self.window.pop(tag)
        # In bulk: a turn of its own for each message would be slower.
        if len(self.window) <= WINDOW // 2 and self.bytes <= WINDOW_BYTES // 2:
            self.publish()


class Receive:
    """Acknowledges half of the prefetch at a time, once it is written and flushed."""

    def __init__(self, channel):
        self.channel = channel
        self.count = int(argument)
        self.acknowledged = 0
        channel.basic_qos(prefetch_count=min(PREFETCH, self.count), callback=lambda _: self.consume())

    def consume(self):
        self.channel.basic_consume(queue, self.received)

    def received(self, channel, method, _properties, body):
        tag = method.delivery_tag
        if tag > self.count:
            return
        out = sys.stdout.buffer
        out.write(body)
        out.write(b"\n")
        if tag == self.count or tag - self.acknowledged >= PREFETCH // 2:
            out.flush()
            channel.basic_ack(tag, multiple=True)
            self.acknowledged = tag
            if tag == self.count:
                finish()


def opened(connection):
    connection.channel(on_open_callback=Send if what == "send" else Receive)


def closed(connection, reason):
    connection.ioloop.stop()
    if not done:
        sys.exit(f"the connection is lost: {reason}")


connection = pika.SelectConnection(
    pika.URLParameters(url), on_open_callback=opened, on_open_error_callback=closed, on_close_callback=closed
)
connection.ioloop.start()
