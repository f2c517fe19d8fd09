//! Hostile inputs, each against a server with three canaries: two go on talking and
//! lose nothing and hear nothing twice, the third hears nothing unclean; afterwards
//! the server is as it was. The figures of the oracle are wide here, where a whole suite shares the
//! machine; `scripts/hostile.sh` holds them narrow.
//!
//! | input | test |
//! | --- | --- |
//! | 1–11, 13–17, 19, 23–25 | here, by number |
//! | 12 TLS hello, broken handshakes | `wire.rs`, `tls.rs` |
//! | 18 no descriptors left, 21 pulled cable | `limits.rs` |
//! | 20 slow readers | `crowd.rs` |
//! | 22 passwords guessed and hashed in parallel | `accounts.rs` |

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use socket2::SockRef;

use crate::support::{Peer, Server, Terminal};

/// How often a canary speaks.
const BEAT: Duration = Duration::from_millis(20);

/// A server that is watched.
pub(crate) struct Watch {
    server: Server,
    before: Vitals,
    is_over: Arc<AtomicBool>,
    canaries: JoinHandle<Vec<Duration>>,
    witness: TcpStream,
    witnessing: JoinHandle<()>,
}

/// What the system knows of the server.
#[derive(Debug)]
struct Vitals {
    descriptors: usize,
    /// The most memory it ever had, in bytes.
    peak: usize,
    /// How long it has worked, in ticks of 10 ms.
    ticks: u64,
}

impl Vitals {
    fn of(server: &Server) -> Self {
        let folder = format!("/proc/{}", server.process_id());
        let status = fs::read_to_string(format!("{folder}/status")).expect("a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let peak: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        let stat = fs::read_to_string(format!("{folder}/stat")).expect("a stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
        let descriptors = fs::read_dir(format!("{folder}/fd")).expect("descriptors").count();
        Self { descriptors, peak: peak << 10, ticks: ticks(11) + ticks(12) }
    }
}

impl Watch {
    fn begin(flags: &[&str]) -> Self {
        Self::over(Server::start_with(flags))
    }

    /// Over a server that keeps its log in a folder.
    pub(crate) fn begin_in(folder: &Path, flags: &[&str]) -> Self {
        let server = Server::start_in(folder, flags);
        // What is opened once and stays open is opened now.
        for ask in ["/history", "/search x"] {
            let mut peer = Peer::join(server.port, "first");
            peer.say("first");
            peer.say(ask);
            peer.say("/quit");
            peer.rest();
        }
        Self::over(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.server.process_id()
    }

    fn over(server: Server) -> Self {
        let before = Vitals::of(&server);
        let is_over = Arc::new(AtomicBool::new(false));
        let (port, over) = (server.port, is_over.clone());
        let mut listener = Peer::join(port, "canary-b");
        let mut speaker = Peer::join(port, "canary-a");
        // Two are by themselves: what the others say does not hold their own lines up.
        for canary in [&mut listener, &mut speaker] {
            canary.say("/join cage");
            canary.say("/part lobby");
            canary.hears(|line| line.starts_with("[PARTED #lobby]"));
        }
        // The third hears all there is to hear.
        let witness = Peer::join(port, "canary-c").socket().try_clone().expect("a socket");
        witness.set_read_timeout(None).expect("a socket");
        let lines = BufReader::new(witness.try_clone().expect("a socket")).lines();
        let witnessing = thread::spawn(move || {
            lines.for_each(|line| check_clean(&line.expect("UTF-8")));
        });
        speaker.say("/set echo off");
        speaker.hears(|line| line.starts_with("[SET "));
        let canaries = thread::spawn(move || {
            let mut latencies = Vec::new();
            let mut last = None;
            // So many beats more when it is over.
            for number in 0.. {
                if over.load(Ordering::Relaxed) && *last.get_or_insert(number + 20) == number {
                    break;
                }
                let start = Instant::now();
                speaker.say(&format!("beat {number}"));
                let heard = listener.hears(|line| line.starts_with("#cage canary-a:"));
                assert_eq!(heard, format!("#cage canary-a: beat {number}"));
                latencies.push(start.elapsed());
                thread::sleep(BEAT.saturating_sub(start.elapsed()));
            }
            latencies
        });
        Self { server, before, is_over, canaries, witness, witnessing }
    }

    pub(crate) fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let mut latencies = self.canaries.join().expect("the canaries live");
        (&self.witness).write_all(b"/quit\n").expect("a socket");
        self.witnessing.join().expect("nothing unclean");
        latencies.sort();
        let p99 = latencies[latencies.len() * 99 / 100];
        let is_strict = env::var_os("CHATTY_STRICT").is_some();
        let (most, max) = if is_strict { (250, 1000) } else { (5000, 10_000) };
        assert!(p99 <= Duration::from_millis(most), "p99 {p99:?} of {}", latencies.len());
        let longest = latencies.last().expect("beats");
        assert!(*longest <= Duration::from_millis(max), "longest {longest:?}");
        Terminal::waits("descriptors as before", || {
            Vitals::of(&self.server).descriptors <= self.before.descriptors + 2
        });
        Terminal::waits("a server at rest", || {
            let ticks = Vitals::of(&self.server).ticks;
            thread::sleep(Duration::from_millis(200));
            Vitals::of(&self.server).ticks <= ticks + 1
        });
        let peak = Vitals::of(&self.server).peak;
        assert!(peak <= self.before.peak + (64 << 20), "{peak} bytes, before {:?}", self.before);
        let logged = self.server.logged();
        assert!(!logged.iter().any(|line| line.contains("panic")), "{logged:?}");
    }
}

/// Nothing but whole lines of text.
fn check_clean(line: &str) {
    assert!(line.len() <= 4352, "{} bytes", line.len());
    let is_unclean = |c: char| {
        let is_bidi = matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}') || is_bidi
    };
    assert!(!line.contains(is_unclean), "{line:?}");
}

/// Lets something happen to a server that is watched; who took part in it is gone
/// when it is looked at.
fn watched(flags: &[&str], attack: impl FnOnce(u16)) {
    let watch = Watch::begin(flags);
    attack(watch.port());
    watch.end();
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    socket
}

/// All that is said to somebody, to the end.
fn heard(mut socket: &TcpStream) -> String {
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    // A reset ends it too: it takes nothing that was read before.
    while let Ok(count @ 1..) = socket.read(&mut piece) {
        heard.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(heard).expect("UTF-8")
}

/// The answer to one line of somebody who has joined.
fn answer(peer: &mut Peer, line: &[u8]) -> Vec<String> {
    peer.send(line);
    peer.settles()
}

#[test]
fn n01_a_line_without_an_end_before_login() {
    watched(&[], |port| {
        let mut socket = connect(port);
        let flood = vec![b'A'; 1 << 20];
        for _ in 0..64 {
            if socket.write_all(&flood).is_err() {
                break;
            }
        }
        assert!(heard(&socket).contains("[BYE too-long] "));
    });
}

#[test]
fn n02_a_line_without_an_end_after_login() {
    watched(&[], |port| {
        let mut mallory = Peer::join(port, "mallory");
        for _ in 0..64 {
            mallory.send(&vec![b'A'; 64 << 10]);
        }
        let said = answer(&mut mallory, b"\n");
        let errors: Vec<_> = said.iter().filter(|line| line.starts_with("[ERROR")).collect();
        assert!(errors.len() == 1 && errors[0].starts_with("[ERROR too-long] "), "{said:?}");
    });
}

#[test]
fn n03_n04_a_bad_line_and_a_good_one_in_one_write() {
    watched(&[], |port| {
        let mut mallory = Peer::join(port, "mallory");
        mallory.say("/part lobby");
        mallory.hears(|line| line.starts_with("[PARTED "));
        let long = [&[b'x'; 5000][..], b"\n/who #lobby\n"].concat();
        for (line, code) in
            [(&long[..], "too-long"), (b"\xfe\xfd\xfc\n/who #lobby\n", "bad-encoding")]
        {
            let said = answer(&mut mallory, line);
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(said[0].starts_with(&format!("[ERROR {code}] ")), "{said:?}");
            assert!(!said[1].is_empty(), "{said:?}");
        }
    });
}

#[test]
fn n05_n06_n07_n08_whatever_is_said_arrives_as_one_clean_line() {
    watched(&[], |port| {
        let mut mallory = Peer::join(port, "mallory");
        let mut bob = Peer::join(port, "bob");
        mallory.say("/set joins off");
        let marks = format!("a{}", "\u{301}".repeat(200));
        let texts: [&[u8]; 14] = [
            b"he\0llo",
            b"\x01\x07\x08\x7f",
            b"\xc2\x9b31mred",
            "a\u{2028}b".as_bytes(),
            b"hi\r* server: you are op",
            b"a\x0bb\x0cc\xc2\x85d",
            b"\x1b]0;pwn\x07",
            b"\x1b[2J\x1b[H",
            b"\x1bP+q\x1b\\",
            b"\x1b[5i",
            "\u{202E}drawkcab \u{2066}".as_bytes(),
            marks.as_bytes(),
            "\u{200D}\u{200B}zero".as_bytes(),
            "👨\u{200D}👩\u{200D}👧".as_bytes(),
        ];
        for text in texts {
            mallory.send(&[text, b"\n"].concat());
            let line = bob.hears(|line| line.starts_with("mallory:"));
            check_clean(&line);
            mallory.send(&[b"/topic ", text, b"\n"].concat());
            mallory.send(&[b"/away ", text, b"\n"].concat());
        }
        mallory.send(&[&b"\x1b[".repeat(512 << 10)[..], b"\n"].concat());
        mallory.settles();
        // Also where it is kept: in the history, in a topic, in what is told of somebody.
        for ask in ["/history 50", "/topic", "/whois mallory", "/list", "/msg mallory hi"] {
            bob.say(ask);
            bob.settles().iter().for_each(|line| check_clean(line));
        }
        let before = bob.settles();
        assert!(!before.iter().any(|line| line.starts_with("* server")), "{before:?}");
    });
}

#[test]
fn n09_n10_names_that_are_none_or_somebody_elses() {
    watched(&[], |port| {
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
                // What folds to other letters may be no name at all, or be taken.
                let may_be_either =
                    code == "name-taken" && said[0].starts_with("[ERROR bad-name] ");
                let is_password = name.contains(' ') && said[0].starts_with("[ERROR ");
                assert!(is_refused || may_be_either || is_password, "{name}: {said:?}");
            }
        }
        mallory.say("/who");
        assert!(mallory.settles()[0].starts_with("[ERROR not-logged-in]"));
    });
}

#[test]
fn n11_n13_other_protocols_join_nothing_and_say_nothing() {
    watched(&[], |port| {
        let mut bob = Peer::join(port, "bob");
        let openings: [&[u8]; 9] = [
            b"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nmallory\r\n/join lobby\r\npwned\r\n",
            b"GET / HTTP/1.1\r\n\r\nmallory\r\npwned\r\n",
            b"OPTIONS * HTTP/1.1\r\n\r\nmallory\r\npwned\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmallory\r\npwned\r\n",
            b"CNXN\0\0\0\x01\0\x10\0\0\x07\0\0\0\x32\x02\0\0\xbc\xb1\xa7\xb1host::\0",
            b"SSH-2.0-x\r\nmallory\r\npwned\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nmallory\r\npwned\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03mallory\npwned\n",
            b"GET / HTTP/1.0\nmallory\npwned\n",
        ];
        for opening in openings {
            let mut socket = connect(port);
            socket.write_all(opening).expect("a socket");
            assert!(heard(&socket).contains("[BYE bad-protocol] "), "{}", opening.escape_ascii());
        }
        // Of remote desktops and file shares, and of nobody: no name among them.
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for number in 0..100 {
            let mut noise = Vec::new();
            while noise.len() < 4096 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                noise.extend_from_slice(&seed.to_be_bytes());
            }
            let first: &[u8] =
                [&b"\x03\x00\x00\x13\x0e\xe0"[..], b"\x00\x00\x00\x85\xffSMB", b""][number % 3];
            let mut socket = connect(port);
            let _ = socket.write_all(&[first, &noise].concat());
            let _ = socket.shutdown(Shutdown::Write);
            heard(&socket);
        }
        let said = bob.settles();
        assert!(
            !said.iter().any(|line| line.contains("pwned") || line.contains("mallory")),
            "{said:?}"
        );
        assert!(said.iter().all(|line| line.starts_with("* ")), "{said:?}");
    });
}

#[test]
fn n14_telnet_that_never_ends() {
    watched(&[], |port| {
        let mut mallory = Peer::join(port, "mallory");
        mallory.say("/set joins off");
        mallory.say("/set echo off");
        mallory.settles();
        mallory.send(b"\xff\xfd\x03\xff\xfb\x18\xff\xfa\x18\x00xterm");
        for _ in 0..64 {
            mallory.send(&vec![b'x'; 64 << 10]);
        }
        let said = answer(&mut mallory, b"\n");
        assert!(said.iter().any(|line| line.starts_with("[ERROR ")), "{said:?}");
        let mut bob = Peer::join(port, "bob");
        mallory.say("usable again");
        bob.hears(|line| line == "mallory: usable again");
    });
}

#[test]
fn n15_text_of_other_encodings() {
    watched(&[], |port| {
        let mut mallory = Peer::join(port, "mallory");
        // Its mark reads as telnet, and its every other byte is a control character.
        let utf16: Vec<u8> = "\u{feff}hi\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for line in answer(&mut mallory, &[&utf16[..], b"\n"].concat()) {
            check_clean(&line);
        }
        // A file with a byte order mark: its first line is a line.
        let mut socket = connect(port);
        socket.write_all("\u{feff}/login bom\n/join ops\n/quit\n".as_bytes()).expect("a socket");
        let said = heard(&socket);
        assert!(said.contains("[WELCOME bom]") && said.contains("[JOINED #ops]"), "{said}");
    });
}

#[test]
fn n16_hundreds_who_drip_their_name() {
    watched(&["--login-timeout", "1500ms"], |port| {
        let mut sockets: Vec<TcpStream> = (0..300).map(|_| connect(port)).collect();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            for socket in &mut sockets {
                let _ = socket.write_all(b"a");
            }
            thread::sleep(Duration::from_millis(100));
        }
        let _bob = Peer::join(port, "bob");
        for socket in &sockets {
            let said = heard(socket);
            assert!(said.contains("[BYE login-timeout] "), "{said}");
        }
    });
}

#[test]
fn n17_connections_that_break_in_every_way() {
    watched(&[], |port| {
        for number in 0..600 {
            let mut socket = connect(port);
            match number % 3 {
                0 => SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket"),
                1 => {}
                _ => {
                    let lines = format!("n{number}\n/ping late\n");
                    socket.write_all(lines.as_bytes()).expect("a socket");
                    socket.shutdown(Shutdown::Write).expect("a socket");
                    let said = heard(&socket);
                    assert!(said.contains("[PONG late]\n[BYE quit]"), "{said}");
                }
            }
        }
    });
}

#[test]
fn n19_many_who_never_read() {
    watched(&["--write-stall", "500ms", "--outbox", "64KiB"], |port| {
        let deaf: Vec<Peer> = (0..50)
            .map(|number| {
                let peer = Peer::join(port, &format!("deaf{number}"));
                let _ = SockRef::from(peer.socket()).set_recv_buffer_size(4096);
                peer
            })
            .collect();
        let mut flooder = Peer::join(port, "flooder");
        flooder.say("/set echo off");
        flooder.settles();
        let text = "x".repeat(4000);
        // Until the last of them is parted with: then nobody but us is left.
        Terminal::waits("an empty house", || {
            for _ in 0..50 {
                flooder.say(&text);
            }
            flooder.settles();
            flooder.say("/who");
            flooder.settles().iter().any(|line| line.starts_with("[USERS #lobby 2]"))
        });
        drop(deaf);
        flooder.say("/quit");
    });
}

#[test]
fn n23_rights_and_tokens_of_others() {
    watched(&[], |port| {
        let mut alice = Peer::join(port, "alice");
        alice.say("/session");
        let token = alice.hears(|line| line.starts_with("[SESSION "));
        let token = token["[SESSION ".len()..].split(']').next().expect("a token").to_owned();
        alice.say("/join secret");
        alice.settles();
        let mut mallory = Peer::connect(port);
        let changed: String = token.chars().rev().collect();
        for line in [
            "/resume 0 0".to_owned(),
            format!("/resume {changed} 0"),
            format!("/resume {} 0", token.to_uppercase()),
            format!("/resume {token}0 0"),
            "/oper sesame".to_owned(),
            "/kick alice".to_owned(),
            "/join secret".to_owned(),
        ] {
            mallory.say(&line);
            let said = mallory.settles();
            let is_refused = said.len() == 1 && said[0].starts_with("[ERROR ");
            assert!(is_refused || token == changed, "{line}: {said:?}");
        }
        mallory.say("/login mallory");
        mallory.hears(|line| line.starts_with("[USERS"));
        mallory.say("/join secret");
        mallory.settles();
        for line in [
            "/kick alice",
            "/op mallory",
            "/ban alice",
            "/lock",
            "/oper x",
            "/wall hi",
            "/kill alice",
        ] {
            mallory.say(line);
            let said = mallory.settles();
            assert!(said.iter().any(|line| line.starts_with("[ERROR ")), "{line}: {said:?}");
        }
        // A command in a text is text, and a name that is left behind gives nothing.
        alice.say("/msg #secret /kick mallory");
        mallory.hears(|line| line == "#secret alice: /kick mallory");
        alice.say("/part secret");
        alice.say("/nick alicia");
        alice.settles();
        mallory.say("/nick alice");
        mallory.settles();
        mallory.say(&format!("/resume {token} 0"));
        assert!(mallory.settles().iter().any(|line| line.starts_with("[ERROR ")));
    });
}

#[test]
fn n24_numbers_beyond_reason_and_very_many_rooms() {
    watched(&["--mailbox", "20"], |port| {
        let mut mallory = Peer::join(port, "mallory");
        mallory.say("/set joins off");
        mallory.settles();
        for line in [
            "/history -1",
            "/history 0",
            "/history 18446744073709551616",
            "/history after 18446744073709551615",
            "/history 99999999999999999999999999 after 99999999999999999999999999",
            "/history after",
            "/history 1 2 3",
            "/search",
            "/mute canary-b 99999999999999999999d",
        ] {
            mallory.say(line);
            let said = mallory.settles();
            let is_answered = said
                .iter()
                .any(|line| line.starts_with("[ERROR ") || line.starts_with("[HISTORY "));
            assert!(is_answered, "{line}: {said:?}");
        }
        for _ in 0..200 {
            mallory.say("/history 1000");
        }
        mallory.settles();
        let joins: String =
            (0..5000).fold(String::new(), |lines, number| lines + &format!("/join r{number}\n"));
        let said = answer(&mut mallory, joins.as_bytes());
        let refused = said.iter().filter(|line| line.starts_with("[ERROR too-many]")).count();
        assert!(refused >= 4900, "{refused} of 5000");
    });
}

#[test]
fn n24_many_who_ask_for_much_and_do_not_read() {
    watched(&["--outbox-total", "16MiB", "--write-stall", "1s"], |port| {
        let mut bob = Peer::join(port, "bob");
        bob.say("/set echo off");
        let line = "x".repeat(4000);
        for _ in 0..1000 {
            bob.say(&line);
        }
        bob.settles();
        let asking: Vec<_> = (0..150)
            .map(|number| {
                let socket = connect(port);
                SockRef::from(&socket).set_recv_buffer_size(4096).expect("a small buffer");
                let asks = format!("asks{number}\n/set joins off\n/history 1000\n");
                (&socket).write_all(asks.as_bytes()).expect("a line");
                socket
            })
            .collect();
        // Whoever reads gets an answer, when those who do not are parted with.
        bob.say("/history 1000");
        bob.hears(|line| line == "[HISTORY #lobby 1000]");
        drop(asking);
    });
}

#[test]
fn n25_marks_said_again_and_marks_that_are_none() {
    watched(&[], |port| {
        let mut mallory = Peer::join(port, "mallory");
        let mut bob = Peer::join(port, "bob");
        mallory.say("/set tags on");
        mallory.settles_tagged();
        mallory.say("@cid=a one");
        let first = mallory.hears(|line| line.contains("mallory: one"));
        for again in ["@cid=a one", "@cid=a another"] {
            mallory.say(again);
            assert_eq!(mallory.hears(|line| line.contains("cid=a")), first);
        }
        for bad in ["@cid= x", "@cid=a b", "@cid=!! x", &format!("@cid={} x", "a".repeat(33))] {
            mallory.say(bad);
            let said = mallory.hears(|line| !line.contains("canary"));
            let is_text = said.contains("mallory: b"); // a mark known already
            assert!(
                said.contains("[ERROR bad-argument]") || is_text || said == first,
                "{bad}: {said}"
            );
        }
        // Very many marks, each new.
        for number in 0..5000 {
            mallory.say(&format!("@cid=m{number} m{number}"));
        }
        bob.hears(|line| line == "mallory: m4999");
        mallory.say("@cid=a one");
        mallory.settles_tagged();
        let said = bob.settles();
        assert!(!said.iter().any(|line| line == "mallory: one"), "{said:?}");
    });
}
