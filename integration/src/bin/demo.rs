//! `make demo`, `make lab` and `make lab-down`.

fn main() -> std::process::ExitCode {
    weft_integration::demo::main()
}
