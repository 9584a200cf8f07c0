//! Redis Streams: keys, producer, consumer, claim, handoff, dead letters and inspection.
