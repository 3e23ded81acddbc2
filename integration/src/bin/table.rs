//! `table`: what came of the scenarios of the last tests, as a table.

fn main() -> std::process::ExitCode {
    weft_integration::scenario::table::main()
}
