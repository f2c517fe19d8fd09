//! Certificate fingerprints, by which people identify a server: the SHA-256 of the
//! certificate in the format of `openssl x509 -fingerprint -sha256`. This module does not
//! validate certificates.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Computes the fingerprint of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    /// Parses 64 hexadecimal digits, in either case, with or without colons.
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || {
            format!("invalid fingerprint \"{text}\": needs 64 hexadecimal digits, like 0A:1B:2C:…")
        };
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or_else(problem))
            .collect::<Result<_, _>>()?;
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => u8::try_from(high << 4 | low).ok(),
                _ => None,
            })
            .collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_has_the_format_of_openssl_and_parses_without_colons() {
        let fingerprint = Fingerprint::of(b"abc");
        let shown = fingerprint.to_string();
        assert!(shown.starts_with("BA:78:16:BF:8F:01:CF:EA:"), "{shown}");
        let plain = shown.replace(':', "").to_lowercase();
        assert_eq!(plain.len(), 64);
        for text in [&shown, &plain] {
            assert_eq!(text.parse(), Ok(fingerprint));
        }
        for bad in ["", "BA", &plain[1..], &format!("{plain}00"), &plain.replace('b', "x")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
