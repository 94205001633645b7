//! What the gateway of a network does beyond routing: names.
