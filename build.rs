//! Has the linker put the functions of `src/copy.rs` in the place of those of libc.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--wrap=memcpy,--wrap=memmove");
}
