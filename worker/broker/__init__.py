"""The RabbitMQ side: what arrives (`intake`, `delivery`), what leaves (`outbox`), and what both stand on.

broker       both connections and all queues, as the rest of the worker sees them
intake       one consumer per queue, and the three ways of losing it
misrouted    what a delivery from `unlink.misrouted` says of itself
delivery     one delivery of one message, acknowledged on the channel that it came on
outbox       events, delayed and dead-lettered copies; each call returns once the broker has confirmed
confirms     one channel in confirm mode, many publishes outstanding
copies       what a copy of a message takes along, and what it must not
topology     exchanges, queues and bindings, as data
connection   one supervised connection
visit        a connection for a while, tried once
client       a blocking client for the command line
received_event  an event as such a client receives it
channels     pika's channels, awaitable
tolerant     what pika alone would not survive of a message
problems     errors, each one readable line with the remedy
back_off     trying again without end
"""
