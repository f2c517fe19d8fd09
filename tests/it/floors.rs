//! Architecture rules. A module imports from lower floors only, the modules of a folder have no
//! import cycles, some words are forbidden in some folders, and every file begins with a module
//! doc.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::is_installed_by_script;
use imports::{Crate, Module};

/// Whether the modules of one floor may import each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Neighbours {
    Apart,
    Together,
}
use Neighbours::{Apart, Together};

/// The floors of a folder from top to bottom: a module may import from lower floors only. Each
/// module of the folder is on one floor. `self` is the folder's own file, which may be left out.
type Floors = &'static [(Neighbours, &'static [&'static str])];

const FLOORS: &[(&str, Floors)] = &[
    (
        "",
        &[
            (Apart, &["client", "server"]),
            (Apart, &["commands", "config"]),
            (Apart, &["files", "ignored_signals", "protocol", "scoped_ip", "stdio", "text_file"]),
        ],
    ),
    (
        "server",
        &[
            (Apart, &["self"]),
            (Apart, &["arguments", "listening", "signals"]),
            (Apart, &["reactor"]),
            (Apart, &["hub"]),
            (Together, &["limits", "net", "turn"]),
            (Apart, &["store"]),
            (Apart, &["audit", "auth", "clock", "id_map", "record"]),
        ],
    ),
    (
        "server::hub",
        &[
            (Apart, &["self"]),
            (Apart, &["input"]),
            (Apart, &["commands"]),
            (Apart, &["delivery"]),
            (Apart, &["context"]),
            (Apart, &["audit", "caches", "persist"]),
            (Apart, &["state"]),
        ],
    ),
    (
        "client",
        &[
            (Apart, &["self"]),
            (Apart, &["config", "say", "start"]),
            (Apart, &["arguments"]),
            (Apart, &["script", "terminal"]),
            (Apart, &["session"]),
            (Apart, &["log_files", "remembered_rooms"]),
            (Apart, &["net"]),
            (Apart, &["model", "process", "text"]),
            (Apart, &["limits"]),
        ],
    ),
    (
        "client::terminal",
        &[
            (Apart, &["interactive"]),
            (Apart, &["chat"]),
            // The prompt.
            (
                Together,
                &[
                    "answer_key",
                    "ctrl_c",
                    "helper",
                    "history",
                    "prompt",
                    "prompt_text",
                    "shared",
                    "suspend",
                    "switch",
                ],
            ),
            // Output.
            (
                Together,
                &[
                    "away_marker",
                    "draft",
                    "latency",
                    "members",
                    "notify",
                    "presence",
                    "printer",
                    "screen",
                    "wrap",
                ],
            ),
        ],
    ),
];

/// Folders without any import cycle between files: here a folder's own file counts, too.
const WITHOUT_CYCLES: &[&str] = &["client"];

/// The import cycles between modules of a folder that are accepted, each with its reason.
const CYCLES: &[(&str, &[&str], &str)] = &[
    (
        "server",
        &["limits", "net", "turn"],
        "admission counts peers by connection, connections have rate limits, turns fill outboxes",
    ),
    ("server::store::sqlite", &["readers", "search"], "a search is a read, and reads rows as one"),
];

/// Words that must not occur in the files of a module and below.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "protocol",
        &["anyhow", "tokio::", "std::net", "std::fs", "Instant", "SystemTime", "println!"],
    ),
    ("commands", &["anyhow", "tokio", "std::net", "Instant", "SystemTime", "println!"]),
    (
        "server::hub",
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
    // Which connections receive which events is decided above the state.
    ("server::hub::state", &["server::turn", "Turn", "Event::", "Audience"]),
    (
        "server::turn",
        &["async ", "await", "tokio", "anyhow", "Instant", "SystemTime", "println!", "Mutex"],
    ),
    (
        "server",
        &["rustyline", "owo_colors", "io::stdin", "io::stdout", "io::stderr", "fs::read_to_string"],
    ),
    (
        "client",
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
    ("client::model", &["async ", "await", "tokio", "anyhow", "Instant", "std::io", "std::net"]),
    ("client::terminal::chat", &["Connection", "async ", "await"]),
    // A connection carries lines; what they mean is decided above it.
    ("client::net", &["crate::commands", "client::model", "Event", "Tags"]),
    ("ignored_signals", &["println!"]),
    ("files", &["println!"]),
    ("stdio", &["tokio", "println!"]),
    ("text_file", &["tokio", "println!"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

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
    let mut paths = Vec::new();
    for folder in ["benches", "fuzz/fuzz_targets", "src", "tests"] {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    let name = |path: &Path| path.strip_prefix(root()).expect("inside").display().to_string();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).expect("text"))).collect()
}

fn parse(path: &str) -> Module {
    path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The imports between the modules of each folder, as (importer, imported), each with an example.
/// `self` is the folder's own file.
type Folders = BTreeMap<Module, BTreeMap<(String, String), String>>;

fn folders(of: &Crate) -> Folders {
    let mut folders = Folders::new();
    for ((from, to), path) in of.imports() {
        let depth = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
        let name = |module: &Module| module.get(depth).map_or("self", String::as_str).to_owned();
        let import = (name(&from), name(&to));
        let text = format!("{} imports {path}", from.join("::"));
        folders.entry(from[..depth].to_vec()).or_default().entry(import).or_insert(text);
    }
    folders
}

/// Returns the imports that do not point down, and the folders with modules that are not on exactly
/// one floor.
fn faults_of_floors(of: &Crate, floors: &[(&str, Floors)]) -> Vec<String> {
    let (mut faults, folders) = (Vec::new(), folders(of));
    for (folder, floors) in floors {
        let path = parse(folder);
        let mut listed: Vec<&str> = floors.iter().flat_map(|(_, names)| *names).copied().collect();
        let below = of.files().filter_map(|file| file.strip_prefix(&*path));
        let children = below.filter(|rest| rest.len() == 1).map(|rest| rest[0].as_str());
        let mut modules: Vec<&str> =
            children.chain(listed.contains(&"self").then_some("self")).collect();
        listed.sort_unstable();
        modules.sort_unstable();
        if listed != modules {
            faults.push(format!("{folder} has {modules:?}, on its floors are {listed:?}"));
        }
        let floor_of = |name: &str| floors.iter().position(|(_, names)| names.contains(&name));
        for ((from, to), text) in folders.get(&path).into_iter().flatten() {
            let (Some(upper), Some(lower)) = (floor_of(from), floor_of(to)) else { continue };
            if upper > lower || (upper == lower && floors[upper].0 == Apart) {
                faults.push(text.clone());
            }
        }
    }
    faults
}

/// Returns the import cycles between modules of a folder, by folder. In the folders `without` and
/// below, the folder's own file counts as one of them.
fn cycles(of: &Crate, without: &[&str]) -> Vec<(String, Vec<String>)> {
    let mut cycles = Vec::new();
    for (folder, mut imports) in folders(of) {
        if !without.iter().any(|without| folder.starts_with(&parse(without))) {
            imports.retain(|(_, to), _| to != "self");
        }
        let names: BTreeSet<&str> = imports.keys().map(|(from, _)| from.as_str()).collect();
        let reached = |from| reached_from(from, &imports);
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            names.iter().map(|name| (*name, reached(name))).collect();
        let cycle_of = |name: &str| -> Vec<String> {
            let others = names.iter().filter(|other| reached[name].contains(**other));
            others
                .filter(|other| reached[**other].contains(name))
                .map(ToString::to_string)
                .collect()
        };
        let found: BTreeSet<Vec<String>> = names.iter().map(|name| cycle_of(name)).collect();
        let found = found.into_iter().filter(|cycle| !cycle.is_empty());
        cycles.extend(found.map(|cycle| (folder.join("::"), cycle)));
    }
    cycles
}

/// Returns the modules that a module imports, directly or through others.
fn reached_from<'i>(
    name: &'i str,
    imports: &'i BTreeMap<(String, String), String>,
) -> BTreeSet<&'i str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![name]);
    while let Some(name) = next.pop() {
        for (_, to) in imports.keys().filter(|(from, _)| from == name) {
            if reached.insert(to.as_str()) {
                next.push(to);
            }
        }
    }
    reached
}

#[test]
fn imports_point_down() {
    let faults = faults_of_floors(&Crate::read(&root().join("src/lib.rs")), FLOORS);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn modules_of_a_folder_have_no_import_cycles() {
    let found = cycles(&Crate::read(&root().join("src/lib.rs")), WITHOUT_CYCLES);
    let mut known: Vec<(String, Vec<String>)> = CYCLES
        .iter()
        .map(|(folder, names, _)| {
            ((*folder).to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
        })
        .collect();
    known.sort();
    assert_eq!(found, known, "import cycles found, and those of the list");
}

#[test]
fn folders_avoid_forbidden_words() {
    for module in Crate::read(&root().join("src/lib.rs")).files() {
        let file = if module.is_empty() { "lib".to_owned() } else { module.join("/") };
        let text = fs::read_to_string(root().join(format!("src/{file}.rs"))).expect("text");
        let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let words = FORBIDDEN.iter().filter(|(folder, _)| module.starts_with(&parse(folder)));
        let words: Vec<&str> = words.flat_map(|(_, words)| *words).copied().collect();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in &words {
                assert!(!line.contains(word), "{file} never says {word}: {line}");
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
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map");
    assert!(architecture.lines().count() <= 100);
    for line in architecture.lines().filter(|line| line.starts_with("| `")) {
        for name in line.split('`').skip(1).step_by(2).filter(|name| name.contains('/')) {
            assert!(root().join(name).exists(), "the map names {name}, which is not there");
        }
    }
}

#[test]
fn every_threat_names_a_test() {
    let threats = fs::read_to_string(root().join("docs/threats.md")).expect("docs/threats.md");
    let (threats, resources) = threats.split_once("## Shared resources").expect("two tables");
    for row in rows(threats) {
        let tests = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        assert!(tests.contains(".rs`"), "no test: {row}");
        for test in tests.split(", ") {
            let file = root().join("tests/it").join(test.trim_matches('`'));
            assert!(file.is_file(), "{}", file.display());
        }
    }
    let reference = fs::read_to_string(root().join("docs/reference.md")).expect("the options");
    for row in rows(resources) {
        let options = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        for option in options.split(", ").filter(|option| option.starts_with('`')) {
            let start = format!("| {} ", option.trim_end_matches('`'));
            assert!(reference.contains(&start), "{option} is no option: {row}");
        }
    }
}

/// The rows of a table.
fn rows(text: &str) -> Vec<&str> {
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 10, "{rows:?}");
    rows
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

#[test]
fn upward_imports_and_unlisted_modules_are_faults() {
    const RULES: &[(&str, Floors)] =
        &[("", &[(Apart, &["top"]), (Apart, &["left", "right"]), (Together, &["one", "two"])])];
    let check = |files: &[(&str, &str)]| faults_of_floors(&Crate::of(files), RULES);
    let root = "mod top; mod left; mod right; mod one; mod two;";
    let files = [
        ("", root),
        ("top", "use crate::{left, one::A};"),
        ("left", "use crate::two::B;"),
        ("right", ""),
        ("one", "use super::two::B; pub struct A;"),
        ("two", "pub struct B;"),
    ];
    assert_eq!(check(&files), [""; 0]);
    let with = |name: &str, text: &'static str| {
        let mut files = files;
        files.iter_mut().filter(|(file, _)| *file == name).for_each(|(_, old)| *old = text);
        check(&files)
    };
    assert_eq!(with("left", "use crate::right::C;"), ["left imports crate::right::C"]);
    assert_eq!(with("one", "fn f() { super::top::g() }"), ["one imports super::top::g"]);
    let faults = with("", "mod top; mod left; mod right; mod one; mod two { }");
    assert!(faults.len() == 1 && faults[0].contains("on its floors are"), "{faults:?}");
}

#[test]
fn import_cycle_through_a_re_export_is_found() {
    let files = [
        ("", "mod a; mod b; mod c; mod d; pub use a::Deep;"),
        ("a", "mod inner; use crate::b; pub use inner::Deep;"),
        ("a/inner", "pub struct Deep; use super::super::d;"),
        ("b", "use crate::c::C;"),
        // Through a re-export of the root.
        ("c", "use super::Deep; pub struct C;"),
        ("d", ""),
    ];
    let cycle = ["a", "b", "c"].map(str::to_owned).to_vec();
    assert_eq!(cycles(&Crate::of(&files), &[]), [(String::new(), cycle)]);
}

#[test]
fn import_cycle_with_own_file_of_folder_is_found_where_it_counts() {
    let files = [
        ("", "mod a; mod b;"),
        ("a", "mod inner; use inner::f; pub struct A;"),
        ("a/inner", "use super::A; pub fn f() {}"),
        ("b", "mod inner; use inner::f; pub struct B;"),
        ("b/inner", "use super::B; pub fn f() {}"),
    ];
    let cycle = ["inner", "self"].map(str::to_owned).to_vec();
    assert_eq!(cycles(&Crate::of(&files), &["a"]), [("a".to_owned(), cycle)]);
    assert_eq!(cycles(&Crate::of(&files), &[]), []);
}
