//! Finds what each module of a crate imports: by `use` trees and by paths in code, through
//! re-exports and aliases. Test code does not count, nor do comments, strings and visibilities.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The path of a module from the root of the crate; empty for the root.
pub(super) type Module = Vec<String>;

/// The modules of a crate, and the names that each of them imports.
#[derive(Debug, Default)]
pub(super) struct Crate {
    modules: BTreeMap<Module, Names>,
}

/// What a module declares and mentions.
#[derive(Debug, Default)]
struct Names {
    /// Whether the module is part of its parent's file.
    is_inline: bool,
    /// `use` declarations: the name they bind (`None` for `*`) and the path.
    uses: Vec<(Option<String>, Vec<String>)>,
    /// Other paths with at least two segments.
    paths: Vec<Vec<String>>,
    /// Child modules in files of their own.
    files: Vec<String>,
}

impl Crate {
    /// Reads a crate from its root file, and the files of its modules.
    pub(super) fn read(root: &Path) -> Self {
        let mut this = Self::default();
        this.add_file(&[], &|module| {
            let file = root.with_file_name(module.join("/")).with_extension("rs");
            let file = if module.is_empty() { root } else { &file };
            fs::read_to_string(file).unwrap_or_else(|why| panic!("{}: {why}", file.display()))
        });
        this
    }

    /// A crate of these files: the path without `.rs`, which is empty for the root, and the text.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut this = Self::default();
        this.add_file(&[], &|module| {
            let path = module.join("/");
            files.iter().find(|(file, _)| *file == path).expect("a file").1.to_owned()
        });
        this
    }

    fn add_file(&mut self, module: &[String], read: &dyn Fn(&[String]) -> String) {
        let parser = Parser { tokens: &tokens(&read(module)), at: 0 };
        let mut files = Vec::new();
        for (parent, names) in parser.parse(module) {
            files.extend(names.files.iter().map(|name| child(&parent, name)));
            self.modules.insert(parent, names);
        }
        for file in files {
            self.add_file(&file, read);
        }
    }

    /// The modules with a file of their own.
    pub(super) fn files(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().filter(|(_, names)| !names.is_inline).map(|(module, _)| module)
    }

    /// Which file imports from which others, each with a path that does.
    pub(super) fn imports(&self) -> BTreeMap<(Module, Module), String> {
        let mut imports = BTreeMap::new();
        for (module, names) in &self.modules {
            let uses = names.uses.iter().map(|(_, path)| path);
            for path in uses.chain(&names.paths) {
                let mut needed = BTreeSet::new();
                self.resolve(module, path, &mut needed);
                for (target, _) in needed {
                    let (from, to) = (self.file_of(module), self.file_of(&target));
                    if from != to {
                        imports.entry((from, to)).or_insert_with(|| path.join("::"));
                    }
                }
            }
        }
        imports
    }

    fn file_of(&self, module: &[String]) -> Module {
        let mut file = module;
        while self.modules[file].is_inline {
            file = &file[..file.len() - 1];
        }
        file.to_owned()
    }

    /// Finds what a path in `module` needs: the modules in which a name is looked up, with the
    /// name, and the modules that are imported themselves.
    fn resolve(&self, module: &[String], path: &[String], needed: &mut BTreeSet<Needed>) {
        let Some((first, rest)) = path.split_first() else { return };
        match first.as_str() {
            "crate" => self.look_up(&[], rest, needed),
            "self" => self.look_up(module, rest, needed),
            "super" => self.look_up(parent(module), rest, needed),
            // Otherwise it is a name of another crate or of this module.
            name if self.imports_name(module, name) => self.look_up(module, path, needed),
            _ => {}
        }
    }

    fn imports_name(&self, module: &[String], name: &str) -> bool {
        let mut uses = self.modules[module].uses.iter();
        self.modules.contains_key(&child(module, name))
            || uses.any(|(bound, _)| bound.as_deref().is_none_or(|bound| bound == name))
    }

    /// Follows a path whose first name is looked up in `module`.
    fn look_up(&self, module: &[String], path: &[String], needed: &mut BTreeSet<Needed>) {
        let Some((first, rest)) = path.split_first() else {
            needed.insert((module.to_owned(), None));
            return;
        };
        if first == "super" {
            return self.look_up(parent(module), rest, needed);
        }
        let inner = child(module, first);
        if self.modules.contains_key(&inner) {
            return self.look_up(&inner, rest, needed);
        }
        if !needed.insert((module.to_owned(), Some(first.clone()))) {
            return; // followed already
        }
        let uses = &self.modules[module].uses;
        let explicit = uses.iter().filter(|(bound, _)| bound.as_ref() == Some(first));
        let explicit: Vec<_> = explicit.map(|(_, target)| [target, rest].concat()).collect();
        // Otherwise each `*` may import it; what a module defines itself is not known here.
        let stars = uses.iter().filter(|(bound, _)| explicit.is_empty() && bound.is_none());
        let stars: Vec<_> = stars.map(|(_, target)| [target, path].concat()).collect();
        for target in explicit.iter().chain(&stars) {
            self.resolve(module, target, needed);
        }
    }
}

/// A module, and the name that is looked up in it; `None`: the module is imported itself.
type Needed = (Module, Option<String>);

fn parent(module: &[String]) -> &[String] {
    module.split_last().expect("a module above").1
}

fn child(module: &[String], name: &str) -> Module {
    [module, &[name.to_owned()]].concat()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// An identifier, a keyword or a number.
    Word(String),
    /// `::`
    Separator,
    Other(char),
}

/// Splits source text into tokens, without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        if let Some(after) = after_ignored(rest) {
            rest = after;
        } else if word_len(rest) > 0 {
            // `r#use` is a name, not a keyword.
            let len = rest.strip_prefix("r#").map_or(word_len(rest), |name| 2 + word_len(name));
            tokens.push(Token::Word(rest[..len].to_owned()));
            rest = &rest[len..];
        } else if let Some(after) = rest.strip_prefix("::") {
            tokens.push(Token::Separator);
            rest = after;
        } else {
            tokens.extend((!first.is_whitespace()).then_some(Token::Other(first)));
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

fn word_len(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// Returns what follows a comment, string, character or lifetime at the start of the text.
fn after_ignored(text: &str) -> Option<&str> {
    if text.starts_with("//") {
        return Some(text.split_once('\n').map_or("", |(_, after)| after));
    }
    if let Some(comment) = text.strip_prefix("/*") {
        return Some(after_block_comment(comment));
    }
    for prefix in ["", "b", "c", "r", "br", "cr"] {
        let Some(literal) = text.strip_prefix(prefix) else { continue };
        if prefix.ends_with('r') {
            let quote = literal.trim_start_matches('#');
            if let Some(content) = quote.strip_prefix('"') {
                let end = format!("\"{}", &literal[..literal.len() - quote.len()]);
                return Some(content.split_once(&end).map_or("", |(_, after)| after));
            }
        } else if let Some(content) = literal.strip_prefix('"') {
            return Some(after_quoted(content, '"'));
        } else if let Some(content) = literal.strip_prefix('\'') {
            let mut chars = content.chars();
            let is_char = matches!((chars.next(), chars.next()), (Some('\\'), _) | (_, Some('\'')));
            let lifetime = &content[word_len(content)..];
            return Some(if is_char { after_quoted(content, '\'') } else { lifetime });
        }
    }
    None
}

/// Block comments nest.
fn after_block_comment(mut text: &str) -> &str {
    while let Some(at) = text.find("*/") {
        match text.find("/*").filter(|inner| *inner < at) {
            Some(inner) => text = after_block_comment(&text[inner + 2..]),
            None => return &text[at + 2..],
        }
    }
    ""
}

fn after_quoted(text: &str, quote: char) -> &str {
    let mut chars = text.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => drop(chars.next()),
            _ if next == quote => break,
            _ => {}
        }
    }
    chars.as_str()
}

/// Collects the names of one file.
struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl Parser<'_> {
    /// Returns the names of the file's module and of its inline modules.
    fn parse(mut self, file: &[String]) -> BTreeMap<Module, Names> {
        let mut modules = BTreeMap::from([(file.to_owned(), Names::default())]);
        // The module of the current position, and the depth of braces at which it begins.
        let (mut scopes, mut depth) = (vec![(file.to_owned(), 0)], 0);
        while let Some(token) = self.next() {
            let module = &scopes.last().expect("the file").0;
            let names = modules.get_mut(module).expect("a module");
            match token {
                Token::Other('{') => depth += 1,
                Token::Other('}') => {
                    if scopes.last().is_some_and(|(_, start)| *start == depth) {
                        scopes.pop();
                    }
                    depth -= 1;
                }
                Token::Other('#') if self.skip(&["[", "cfg", "(", "test", ")", "]"]) => {
                    self.skip_item();
                }
                Token::Other(_) => {}
                // A path that begins with `::` is one of another crate.
                Token::Separator => self.skip_word(),
                Token::Word(word) => match word.as_str() {
                    "use" if self.peek() != Some(&Token::Other('<')) => {
                        self.use_tree(Vec::new(), &mut names.uses);
                    }
                    "pub" if self.skip(&["(", "in"]) => {
                        while self.next().is_some_and(|token| token != Token::Other(')')) {}
                    }
                    "mod" => {
                        let Some(Token::Word(name)) = self.next() else { continue };
                        if self.skip(&["{"]) {
                            depth += 1;
                            let inner = child(module, &name);
                            modules.insert(
                                inner.clone(),
                                Names { is_inline: true, ..Names::default() },
                            );
                            scopes.push((inner, depth));
                        } else {
                            names.files.push(name);
                        }
                    }
                    _ => {
                        let path = self.path(word);
                        names.paths.extend((path.len() > 1).then_some(path));
                    }
                },
            }
        }
        modules
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// Skips these tokens if they all follow.
    fn skip(&mut self, texts: &[&str]) -> bool {
        let next = self.tokens[self.at..].iter().take(texts.len());
        let is_same = |token: &Token, text: &str| match token {
            Token::Word(word) => word == text,
            Token::Separator => text == "::",
            Token::Other(other) => text.starts_with(*other),
        };
        let follows =
            next.len() == texts.len() && next.zip(texts).all(|(token, text)| is_same(token, text));
        self.at += if follows { texts.len() } else { 0 };
        follows
    }

    fn skip_word(&mut self) {
        self.at += usize::from(matches!(self.peek(), Some(Token::Word(_))));
    }

    /// Skips an item: to its `;`, or to the end of its braces. A variant, an arm or an element of
    /// an array, which begins with a capital letter, is skipped to its comma.
    fn skip_item(&mut self) {
        let is_capital = |word: &String| word.starts_with(char::is_uppercase);
        let is_item = !matches!(self.peek(), Some(Token::Word(word)) if is_capital(word));
        let mut depth = 0;
        while let Some(token) = self.next() {
            match token {
                Token::Other(',') if depth == 0 && !is_item => return,
                Token::Other('(' | '[' | '{') => depth += 1,
                Token::Other(')' | ']') => depth -= 1,
                Token::Other('}') => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                Token::Other(';') if depth == 0 => return,
                _ => {}
            }
        }
    }

    /// Returns the path that begins with a word.
    fn path(&mut self, first: String) -> Vec<String> {
        let mut path = vec![first];
        while let [Token::Separator, Token::Word(next), ..] = &self.tokens[self.at..] {
            path.push(next.clone());
            self.at += 2;
        }
        path
    }

    /// Reads a tree of `use`; what ends it is left.
    fn use_tree(&mut self, mut path: Vec<String>, uses: &mut Vec<(Option<String>, Vec<String>)>) {
        loop {
            match self.next() {
                // A path that begins with `::` is one of another crate.
                Some(Token::Separator) if path.is_empty() => path.push(String::new()),
                Some(Token::Separator) => {}
                Some(Token::Word(word)) if word == "as" => {
                    let Some(Token::Word(name)) = self.next() else { return };
                    return uses.push((Some(name), path));
                }
                // `a::{self}` imports `a`.
                Some(Token::Word(word)) if word == "self" && !path.is_empty() => {}
                Some(Token::Word(word)) => path.push(word),
                Some(Token::Other('*')) => return uses.push((None, path)),
                Some(Token::Other('{')) => {
                    while !self.skip(&["}"]) {
                        if !self.skip(&[","]) {
                            self.use_tree(path.clone(), uses);
                        }
                    }
                    return;
                }
                _ => {
                    self.at -= 1;
                    return uses.extend(path.last().cloned().map(|name| (Some(name), path)));
                }
            }
        }
    }
}

/// Returns the files that `a/inner` imports from if this is its text.
fn imports_of(text: &str) -> Vec<String> {
    let files = [
        ("", "mod a; mod b; mod c; pub use b::{B, deep as alias}; use c::*;"),
        ("a", "pub mod inner; mod sibling; use sibling::Thing; pub use crate::c::Through;"),
        ("a/inner", text),
        ("a/sibling", "pub struct Thing;"),
        ("b", "pub mod deep; pub struct B; pub mod inline { pub struct I; }"),
        ("b/deep", "pub struct D;"),
        ("c", "pub struct Through; pub struct Globbed;"),
    ];
    let imports = Crate::of(&files).imports();
    let targets = imports.keys().filter(|(from, _)| from.join("::") == "a::inner");
    targets.map(|(_, to)| to.join("::")).collect()
}

#[test]
fn use_trees_name_every_module_they_need() {
    for (text, modules) in [
        ("use crate::{b::{self, B}, c};", vec!["b", "c"]),
        ("use crate::b::{deep::{D as Renamed}, inline::I,};", vec!["b", "b::deep"]),
        ("use super::Unknown;", vec!["a"]),
        ("pub(crate) use super::super::c as other; fn f() { other::g() }", vec!["c"]),
        ("use self::super::super::b::deep;", vec!["b::deep"]),
        ("use super::*;", vec!["a"]),
        // Through imports and re-exports of the modules above.
        ("use super::Thing;", vec!["a", "a::sibling"]),
        ("use super::{Through};", vec!["a", "c"]),
        ("use crate::alias::D;", vec!["", "b::deep"]),
        ("use crate::Globbed;", vec!["", "c"]),
        // Other crates, also with the name of a module here.
        ("use std::fmt; use ::b::B; use {serde::{self}, bytes as c};", vec![]),
    ] {
        assert_eq!(imports_of(text), modules, "{text}");
    }
}

#[test]
fn paths_in_code_name_the_modules_they_need() {
    for (text, modules) in [
        ("fn f() -> crate::b::B { super::super::c::g::<u8>() }", vec!["b", "c"]),
        (
            "fn f(x: impl Fn(&<u8 as crate::b::T>::X)) { println!(\"{}\", crate::c::N); }",
            vec!["b", "c"],
        ),
        ("use crate::{self as root}; fn f() { root::b::deep::g() }", vec!["", "b::deep"]),
        ("mod own { fn f() { super::super::super::c::g(); super::h() } }", vec!["c"]),
        ("mod own { use super::B; } use crate::b::B;", vec!["b"]),
        ("mod own { } use crate::b; fn f() { b::deep::g(); own::c::g() }", vec!["b", "b::deep"]),
        ("fn f() { use crate::b::B; } macro_rules! m { () => { $crate::c::g() } }", vec!["b", "c"]),
        ("fn f() { std::c::g(); x.c::<crate::b::B>(); ::c::g() }", vec!["b"]),
    ] {
        assert_eq!(imports_of(text), modules, "{text}");
    }
}

#[test]
fn text_that_is_no_code_names_nothing() {
    for text in [
        "// use crate::b;\n/* crate::b /* nested */ crate::c::g() */ /// [`crate::b::B`]",
        r#"const A: &str = "crate::b::B \" crate::c::g";"#,
        r##"const B: &str = r#"crate::b::B" crate::c::g"#;"##,
        r#"const Q: char = '"'; const E: char = '\''; const S: &[u8] = b"crate::b::B";"#,
        r#"fn f<'a>(x: &'a str) -> char { 'a' } const T: &str = "crate::b::B";"#,
        "pub(in crate::b) struct S; pub(super) fn f() {} pub(crate) fn g() {}",
        "#[cfg(test)] use crate::{b, c}; #[cfg(test)] mod tests { use crate::b::B; fn f() { {} } }",
        "#[cfg(test)]\n#[path = \"x\"]\nmod test_support;",
        "fn f() -> impl Fn() + use<'static> { g() }",
    ] {
        assert_eq!(imports_of(text), [""; 0], "{text}");
    }
    // Code goes on behind it.
    for text in [
        "const Q: char = '\\\\'; use crate::b;",
        "fn f<'a>() {} use crate::b; // \"",
        "#[cfg(test)] const A: [u8; 1] = [0]; use crate::b;",
        "/* \" */ use crate::b; /* \" */",
        "const R: &str = r\"\\\"; use crate::b;",
        "#[cfg(test)] impl A { fn f() {} } use crate::b;",
        "enum E { #[cfg(test)] A, B } use crate::b;",
        "fn f() { match e { #[cfg(test)] E::A => crate::c::g(1, 2), E::B => {} } crate::b::h() }",
    ] {
        assert_eq!(imports_of(text), ["b"], "{text}");
    }
}
