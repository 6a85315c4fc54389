mod pipe;
mod requests;
mod server;
