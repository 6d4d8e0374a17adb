//! What happened with a contact: its words about consent and its messages, newest first. There is no table for it: the
//! messages are found by the contact, and its words lie together in the log's primary key.

pub mod read;
