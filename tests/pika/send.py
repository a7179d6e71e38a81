"""The sending half of RabbitMQ's first tutorial, with the broker's URL and the queue as arguments."""
import sys

import pika

url, queue, body = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue=queue)
channel.basic_publish(exchange="", routing_key=queue, body=body)
print(f" [x] Sent '{body}'")
connection.close()
