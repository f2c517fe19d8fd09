//! Malformed and overlong lines, control characters, and invalid names: rows 1 to 10, 14 and 15.

use std::fs;
use std::io::Write as _;

use super::watch::{Watch, check_clean, is_presence, scale};
use super::{answer, connect, read_to_end, watched, watched_without_growth};
use crate::support::Peer;

#[test]
fn n01_endless_line_before_login() {
    watched_without_growth(
        |_| false,
        |port| {
            let mut socket = connect(port);
            let flood = vec![b'A'; 1 << 20];
            for _ in 0..scale(64, 16) {
                if socket.write_all(&flood).is_err() {
                    break;
                }
            }
            let said = read_to_end(&socket);
            let lines: Vec<&str> = said.lines().collect();
            assert!(lines.len() == 2 && lines[1].starts_with("[BYE too-long] "), "{said}");
        },
    );
}

#[test]
fn n02_endless_line_after_login() {
    watched_without_growth(
        |line| is_presence(line, &["mallory"]),
        |port| {
            let mut mallory = Peer::join(port, "mallory");
            for _ in 0..scale(64, 16) {
                mallory.send(&vec![b'A'; 1 << 20]);
            }
            let said = answer(&mut mallory, b"\n");
            let errors: Vec<_> = said.iter().filter(|line| line.starts_with("[ERROR")).collect();
            assert!(errors.len() == 1 && errors[0].starts_with("[ERROR too-long] "), "{said:?}");
        },
    );
}

#[test]
fn n03_n04_bad_and_good_line_in_one_write() {
    watched(
        &[],
        |line| is_presence(line, &["mallory"]),
        |port| {
            let mut mallory = Peer::join(port, "mallory");
            mallory.say("/part lobby");
            mallory.hears(|line| line.starts_with("[PARTED "));
            let long = [b'x'; 5000];
            // The last one consists of telnet commands only, and so counts as an empty line.
            let bad: [(&[u8], _); 3] = [
                (&long, Some("too-long")),
                (b"\xfe\xfd\xfc", Some("bad-encoding")),
                (b"\xff\xfe\xfd", None),
            ];
            for (line, code) in bad {
                mallory.send(&[line, b"\n/who #lobby\n"].concat());
                // The error arrives without another byte.
                if let Some(code) = code {
                    let said = mallory.next();
                    assert!(said.starts_with(&format!("[ERROR {code}] ")), "{said}");
                }
                assert_eq!(mallory.next(), "[USERS #lobby 1] canary-c");
                assert_eq!(mallory.settles(), [""; 0]);
            }
        },
    );
}

/// Pairs of a text as sent and as received.
fn odd_texts() -> Vec<(Vec<u8>, String)> {
    let bytes: [(&[u8], &str); 10] = [
        (b"he\0llo", "he\u{fffd}llo"),
        (b"\x01\x07\x08\x7f", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        (b"\xc2\x9b31mred", "\u{fffd}31mred"),
        (b"hi\r* server: you are op", "hi\u{fffd}* server: you are op"),
        (b"a\x0bb\x0cc\xc2\x85d", "a\u{fffd}b\u{fffd}c\u{fffd}d"),
        (b"\x1b]0;pwn\x07", "\u{fffd}]0;pwn\u{fffd}"),
        (b"\x1b[2J\x1b[H", "\u{fffd}[2J\u{fffd}[H"),
        (b"\x1bP+q\x1b\\", "\u{fffd}P+q\u{fffd}\\"),
        (b"\x1b[5i", "\u{fffd}[5i"),
        (&[1; 1365], &"\u{fffd}".repeat(1365)), // 4095 bytes
    ];
    let marks = format!("a{}", "\u{301}".repeat(200));
    let texts = [
        ("a\u{2028}b", "a\u{fffd}b"),
        ("\u{202E}drawkcab \u{2066}", "\u{fffd}drawkcab \u{fffd}"),
        (&marks, &marks),
        ("\u{200D}\u{200B}zero", "\u{200D}\u{200B}zero"),
        ("👨\u{200D}👩\u{200D}👧", "👨\u{200D}👩\u{200D}👧"),
    ];
    let bytes = bytes.map(|(said, heard)| (said.to_vec(), heard.to_owned()));
    let texts = texts.map(|(said, heard)| (said.as_bytes().to_vec(), heard.to_owned()));
    bytes.into_iter().chain(texts).collect()
}

#[test]
fn n05_n06_n07_n08_hostile_text_arrives_as_one_clean_line() {
    let texts = odd_texts();
    let heard: Vec<String> = texts.iter().map(|(_, heard)| heard.clone()).collect();
    // Longer lines are refused; these commands leave less space for the text.
    let topic = |line: &str| {
        let text = line.strip_prefix("* mallory set the topic: ");
        text.is_some_and(|text| heard.iter().any(|heard| heard == text))
    };
    let spoken = |line: &&String| line.starts_with("mallory: ");
    let may_hear = |line: &str| {
        line.starts_with("mallory: ") || topic(line) || is_presence(line, &["mallory", "bob"])
    };
    let witnessed = watched(&[], may_hear, |port| {
        let mut mallory = Peer::join(port, "mallory");
        let mut bob = Peer::join(port, "bob");
        mallory.say("/set joins off");
        for (text, heard) in &texts {
            mallory.send(&[text, &b"\n"[..]].concat());
            assert_eq!(bob.hears(|line| line.starts_with("mallory:")), format!("mallory: {heard}"));
            for command in ["/topic ", "/away "] {
                mallory.send(&[command.as_bytes(), text, b"\n"].concat());
            }
            for command in ["/nick ", "/join "] {
                let said = answer(&mut mallory, &[command.as_bytes(), text, b"\n"].concat());
                let refused = ["[ERROR bad-name] ", "[ERROR too-long] "];
                assert!(
                    refused.iter().any(|code| said[said.len() - 1].starts_with(code)),
                    "{said:?}"
                );
            }
        }
        let said = answer(&mut mallory, &[&b"\x1b[".repeat(512 << 10)[..], b"\n"].concat());
        assert!(said.len() == 1 && said[0].starts_with("[ERROR too-long] "), "{said:?}");
        // Stored copies are clean as well: in the history, a topic, and user data.
        for ask in ["/history 50", "/topic", "/whois mallory", "/list", "/who", "/msg mallory hi"] {
            bob.say(ask);
            bob.settles().iter().for_each(|line| check_clean(line));
        }
    });
    let witnessed: Vec<&String> = witnessed.iter().filter(spoken).collect();
    let each: Vec<String> = heard.iter().map(|heard| format!("mallory: {heard}")).collect();
    assert_eq!(witnessed, each.iter().collect::<Vec<_>>(), "one line each");
}

#[test]
fn n09_n10_invalid_and_confusable_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = || {
        let entries = fs::read_dir(folder.path()).expect("the folder");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("a file").file_name()).collect();
        names.sort();
        names
    };
    let watch = Watch::begin_in(folder.path(), &[]);
    let (port, before) = (watch.port(), files());
    {
        let _alice = Peer::join(port, "alice");
        let mut mallory = Peer::connect(port);
        let taken = ["alice", "Alice", "ALICE", "a1ice", "\u{430}lice", "\u{ff41}lice"];
        let long = "x".repeat(33);
        let bad = [
            &long,
            "*",
            "server",
            "system",
            "#x",
            "@x",
            "../../etc/passwd",
            "a b",
            "a:b",
            "-rf",
            "%s%n",
            "$(id)",
            "chatty.v1.>",
            "alice\u{200b}",
            "\u{202e}ecila",
            "1",
            "[x]",
        ];
        for (names, code) in [(&taken[..], "name-taken"), (&bad[..], "bad-name")] {
            for name in names {
                mallory.say(&format!("/login {name}"));
                let said = mallory.settles();
                assert_eq!(said.len(), 1, "{name}: {said:?}");
                let is_refused = said[0].starts_with(&format!("[ERROR {code}] "));
                // After case folding the name may be invalid or in use.
                let may_be_either =
                    code == "name-taken" && said[0].starts_with("[ERROR bad-name] ");
                let is_password = name.contains(' ') && said[0].starts_with("[ERROR ");
                assert!(is_refused || may_be_either || is_password, "{name}: {said:?}");
            }
        }
        mallory.say("/who");
        assert!(mallory.settles()[0].starts_with("[ERROR not-logged-in]"));
    }
    assert_eq!(files(), before, "no name makes a file");
    watch.end(|line| is_presence(line, &["alice"]));
}

#[test]
fn n14_endless_telnet_negotiation() {
    let may_hear =
        |line: &str| is_presence(line, &["mallory", "bob"]) || line == "mallory: usable again";
    watched_without_growth(may_hear, |port| {
        let mut mallory = Peer::join(port, "mallory");
        mallory.say("/set joins off");
        mallory.say("/set echo off");
        mallory.settles();
        mallory.send(b"\xff\xfd\x03\xff\xfb\x18\xff\xfa\x18\x00xterm");
        for _ in 0..64 {
            mallory.send(&vec![b'x'; 64 << 10]);
        }
        let said = answer(&mut mallory, b"\n");
        assert!(said.len() == 1 && said[0].starts_with("[ERROR "), "{said:?}");
        let mut bob = Peer::join(port, "bob");
        mallory.say("usable again");
        bob.hears(|line| line == "mallory: usable again");
    });
}

#[test]
fn n15_text_in_other_encodings() {
    // Some of the bytes are valid text.
    let is_text = |line: &str| {
        ["\u{fffd}i\u{fffd}", "\u{fffd}"].iter().any(|text| line == format!("mallory: {text}"))
    };
    let may_hear = |line: &str| is_text(line) || is_presence(line, &["mallory", "bom"]);
    watched(&[], may_hear, |port| {
        let mut mallory = Peer::join(port, "mallory");
        // The byte order mark looks like telnet, and every other byte is a control character.
        let utf16: Vec<u8> = "\u{feff}hi\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let said = answer(&mut mallory, &[&utf16[..], b"\n"].concat());
        assert!(said.iter().all(|line| is_text(line)), "{said:?}");
        // With other letters the line is not valid UTF-8.
        let utf16: Vec<u8> = "\u{feff}\u{df}\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let said = answer(&mut mallory, &[&utf16[..], b"\n"].concat());
        assert!(said[0].starts_with("[ERROR bad-encoding] "), "{said:?}");
        // The first line of a file with a byte order mark is an ordinary line.
        let mut socket = connect(port);
        socket.write_all("\u{feff}/login bom\n/join ops\n/quit\n".as_bytes()).expect("a socket");
        let said = read_to_end(&socket);
        assert!(said.contains("[WELCOME bom]") && said.contains("[JOINED #ops]"), "{said}");
    });
}
