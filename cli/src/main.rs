//! The `postern` binary.

fn main() -> std::process::ExitCode {
    postern::main()
}
