//! What is rendered from one source, and committed for those who package hello-mq: the pages of the
//! manual and the scripts for completion. `BLESS=1 cargo test --test rendered` writes them anew.
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

/// Compares the files of a directory with what they should be, or makes them so.
fn compare(directory: &str, rendered: &[(String, String)]) {
    let names: BTreeSet<_> = fs::read_dir(project(directory))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    if std::env::var_os("BLESS").is_some() {
        for (name, text) in rendered {
            fs::write(project(directory).join(name), text).unwrap();
        }
        return;
    }
    for (name, text) in rendered {
        let committed = fs::read_to_string(project(directory).join(name)).unwrap_or_default();
        assert!(
            committed == *text,
            "{directory}/{name} is not what its source makes of it: BLESS=1 cargo test --test rendered"
        );
    }
    let expected: BTreeSet<_> = rendered.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, expected, "{directory} has other files");
}
