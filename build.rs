//! Links src/startup.c into the program.

fn main() {
    println!("cargo::rerun-if-changed=src/startup.c");
    let objects = cc::Build::new()
        .file("src/startup.c")
        .compile_intermediates();
    // The linker would leave a library out, because nothing calls it.
    for object in objects {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
