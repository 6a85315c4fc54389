mod bench;
mod client;
mod pipe;
mod requests;
mod responses;
mod round_trips;
mod server;
