//! Links src/descriptors.c, which has to run before Rust's runtime does, into the program.

fn main() {
    println!("cargo::rerun-if-changed=src/descriptors.c");
    let objects = cc::Build::new()
        .file("src/descriptors.c")
        .compile_intermediates();
    // Not as a library: nothing calls it, so the linker would leave it out.
    for object in objects {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
