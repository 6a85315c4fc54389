use std::process::ExitCode;

/// Chosen until a measurement says otherwise: each worker frees what it allocated, which mimalloc does without locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nuncio::run(std::env::args_os())
}
