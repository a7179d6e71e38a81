//! What is rendered from one source, and committed for those who package hello-mq: the pages of the
//! manual, the scripts for completion, and the example of a configuration file. `BLESS=1 cargo test --test rendered` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod completion;
mod configuration;
mod page;
mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a file with what it should be, or makes it so.
fn compare_file(name: &str, text: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(project(name), text).unwrap();
    }
    let committed = fs::read_to_string(project(name)).unwrap_or_default();
    assert!(
        committed == text,
        "{name} is not what its source makes of it: BLESS=1 cargo test --test rendered"
    );
}

/// Compares the files of a directory with what they should be, or makes them so.
fn compare(directory: &str, rendered: &[(String, String)]) {
    let names: BTreeSet<_> = fs::read_dir(project(directory))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    for (name, text) in rendered {
        compare_file(&format!("{directory}/{name}"), text);
    }
    let expected: BTreeSet<_> = rendered.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, expected, "{directory} has other files");
}
