//! `uml [--limit SECONDS] [--writable DIR]… COMMAND [ARG]…`: runs a command in a User-Mode-Linux kernel.

fn main() -> std::process::ExitCode {
    weft_integration::uml::cli::main()
}
