//! Architecture rules: imports point down only, each layer avoids certain words, and every file
//! begins with a module doc.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::is_installed_by_script;

fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    let name = |path: &Path| path.strip_prefix(root).expect("inside").display().to_string();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).expect("text"))).collect()
}

/// For each layer: the modules it may import, and words that must not occur in it.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    (
        "src/protocol",
        &["protocol"],
        &["anyhow", "tokio::", "std::net", "std::fs", "Instant", "SystemTime", "println!"],
    ),
    (
        "src/commands",
        &["protocol"],
        &["anyhow", "tokio", "std::net", "Instant", "SystemTime", "println!"],
    ),
    (
        "src/server/hub",
        &["protocol", "commands", "server"],
        &[
            "async ",
            "await",
            "tokio",
            "anyhow",
            "Instant",
            "SystemTime",
            "println!",
            "Mutex",
            "std::io",
        ],
    ),
    (
        "src/server/turn.rs",
        &["protocol", "server"],
        &["async ", "await", "tokio", "anyhow", "Instant", "SystemTime", "println!", "Mutex"],
    ),
    (
        "src/server",
        &[
            "protocol",
            "ignored_signals",
            "files",
            "scoped_ip",
            "stdio",
            "text_file",
            "config",
            "commands",
            "server",
        ],
        &["rustyline", "owo_colors", "io::stdin", "io::stdout", "io::stderr", "fs::read_to_string"],
    ),
    (
        "src/client",
        &[
            "protocol",
            "ignored_signals",
            "files",
            "scoped_ip",
            "stdio",
            "text_file",
            "config",
            "commands",
            "client",
        ],
        &[
            "rusqlite",
            // With a leading space: `stdio::stdout()` is permitted.
            " io::stdin().lock",
            " io::stdin().read",
            " io::stdout().lock",
            " io::stdout().write",
            " io::stdout();",
            " io::stderr()",
            "!(io::std",
            "println!",
            "fs::read_to_string",
        ],
    ),
    ("src/ignored_signals.rs", &[], &["println!"]),
    ("src/files.rs", &[], &["println!"]),
    ("src/stdio.rs", &[], &["tokio", "println!"]),
    ("src/text_file.rs", &[], &["tokio", "println!"]),
    ("src/config.rs", &["protocol", "stdio", "text_file"], &["anyhow", "tokio", "println!"]),
];

fn is_in_layer(file: &str, layer: &str) -> bool {
    file.strip_prefix(layer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
}

#[test]
fn imports_point_down_and_layers_avoid_forbidden_words() {
    for (file, text) in sources().iter().filter(|(file, _)| file.starts_with("src/")) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<&str> =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for (layer, imports, never) in LAYERS.iter().filter(|(layer, ..)| is_in_layer(file, layer))
        {
            for line in &code {
                for (at, _) in line.match_indices("crate::") {
                    let module = line[at + "crate::".len()..].split([':', ';', '{', ' ']).next();
                    let module = module.unwrap_or_default();
                    let is_allowed = module.is_empty() || imports.contains(&module);
                    assert!(is_allowed, "{file} is above {module}: {line}");
                }
                for word in *never {
                    assert!(!line.contains(word), "{layer} never says {word}: {file}: {line}");
                }
            }
        }
    }
}

#[test]
fn every_file_starts_with_doc_and_is_tidy() {
    let unfinished = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "dbg".to_owned() + "!("];
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file} does not say what it is");
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            assert!(line.chars().count() <= 100, "{file}:{number} is too long to read");
            assert!(!line.ends_with(' '), "{file}:{number} ends with a blank");
            for word in &unfinished {
                assert!(!line.contains(word.as_str()), "{file}:{number} holds {word}");
            }
        }
    }
}

#[test]
fn unsafe_is_forbidden_and_architecture_doc_is_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the map");
    assert!(architecture.lines().count() <= 100);
    for line in architecture.lines().filter(|line| line.starts_with("| `")) {
        for name in line.split('`').skip(1).step_by(2).filter(|name| name.contains('/')) {
            assert!(root.join(name).exists(), "the map names {name}, which is not there");
        }
    }
}

#[test]
fn every_threat_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let threats = fs::read_to_string(root.join("docs/threats.md")).expect("docs/threats.md");
    let rows: Vec<&str> = threats.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let tests = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        assert!(tests.contains(".rs`"), "no test: {row}");
        for test in tests.split(", ") {
            let file = root.join("tests/it").join(test.trim_matches('`'));
            assert!(file.is_file(), "{}", file.display());
        }
    }
}

/// `kill` and `pgrep`, for example, are missing on some machines.
#[test]
fn test_programs_are_installed_by_test_script() {
    const EVERYWHERE: [&str; 4] = ["sh", "tail", "timeout", "umount"]; // umount comes with mount
    for (file, text) in sources().into_iter().filter(|(file, _)| file.starts_with("tests/")) {
        let text = text.replace("clap::Command::new(", "");
        for start in ["Command::new(\"", "clean_command(\""] {
            for program in text.split(start).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(
                    EVERYWHERE.contains(&program) || is_installed_by_script(program),
                    "{file} runs {program}, which scripts/test.sh does not install"
                );
            }
        }
    }
}
