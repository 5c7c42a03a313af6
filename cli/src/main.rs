//! The `postern` binary.

/// The system's own takes a lock and much time where memory goes from one thread to another, as every request does here.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    postern::main()
}
