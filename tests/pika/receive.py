"""The receiving half of RabbitMQ's first tutorial; ends after as many messages as the last argument."""
import sys

import pika

url, queue, count = sys.argv[1:]
left = int(count)
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue=queue)


def callback(channel, method, properties, body):
    global left
    print(f" [x] Received {body.decode()}", flush=True)
    left -= 1
    if left == 0:
        channel.stop_consuming()


channel.basic_consume(queue=queue, on_message_callback=callback, auto_ack=True)
print(" [*] Waiting for messages. To exit press CTRL+C", flush=True)
channel.start_consuming()
connection.close()
