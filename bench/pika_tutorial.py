"""What RabbitMQ's first tutorial does: no confirms, and auto_ack.

    pika_tutorial.py send URL QUEUE transient|persistent    a message of each line of standard input
    pika_tutorial.py receive URL QUEUE N
"""
import sys

import pika

what, url, queue, argument = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue=queue, durable=queue.endswith("-durable"))

if what == "send":
    properties = pika.BasicProperties(delivery_mode=2) if argument == "persistent" else None
    for line in sys.stdin.buffer:
        channel.basic_publish(exchange="", routing_key=queue, body=line.rstrip(b"\n"), properties=properties)
else:
    left = int(argument)

    def callback(ch, method, properties, body):
        global left
        if left > 0:
            print(f" [x] Received {body}")
        left -= 1
        if left == 0:
            ch.stop_consuming()

    channel.basic_consume(queue=queue, auto_ack=True, on_message_callback=callback)
    channel.start_consuming()

connection.close()
