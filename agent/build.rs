//! Leaves tables for unwinding out of the program that is shipped. The compiler makes them for the standard
//! library, and with whole-program optimisation for everything, also where a panic ends the process.

fn main() {
    const SCRIPT: &str = "no-unwind-tables.ld";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SCRIPT}");
    let is = |name, value| std::env::var(name).is_ok_and(|found| found == value);
    // That the profile's panics end the process cannot be seen here: main.rs does.
    if is("CARGO_FEATURE_SHIPPED", "1") {
        let folder = env!("CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/{SCRIPT}");
        // Functions of the same code are there once, where the linker that comes with Rust is the default:
        // nothing here goes by a function's address.
        if is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
            println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        }
    }
}
