"""The RabbitMQ side: consuming (`intake`, `delivery`), publishing (`outbox`), and what both use.

broker       both connections and all queues, as the rest of the worker sees them
intake       one consumer per queue, registered again after a lost connection, a closed channel or a cancel
misrouted    the Enterprise Manager and the reason of a delivery from `unlink.misrouted`
delivery     one delivery of one message, acknowledged on the channel that delivered it
outbox       events, delayed and dead-lettered copies; each call returns once the broker has confirmed
confirms     one channel in confirm mode, many publishes outstanding
copies       the properties and headers of a copied message
topology     exchanges, queues and bindings, as data
connection   one supervised connection
visit        a short connection, without retries
client       a blocking client for the command line and the console
received_event  an event as such a client receives it
awaited      which event answers which command
dead_letters  one message in `unlink.dead`
senders      the original sender of a message, also of a copied one
operator_resources  the topology as resources of RabbitMQ's Messaging Topology Operator
channels     pika's channels, awaitable
tolerant     connections that survive undecodable headers
problems     errors, each one line that names the remedy
back_off     retries without a limit
"""
