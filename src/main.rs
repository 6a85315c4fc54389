use std::process::ExitCode;

mod allocator;
#[cfg(target_env = "gnu")]
mod copy;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    nuncio::run(std::env::args_os())
}
