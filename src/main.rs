use std::process::ExitCode;

mod allocator;
mod copy;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    nuncio::run(std::env::args_os())
}
