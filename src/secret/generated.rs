//! The text of a generated secret: `weft-` and seven groups of eight letters.
//!
//! 256 random bits and a checksum of 24 bits, together 56 letters of base32 (RFC 4648 §6, written small). Case and the
//! places of hyphens do not matter when it is read; a wrong, missing or additional letter is noticed.

use zeroize::Zeroizing;

use crate::{crypto::kdf, entropy::Entropy};

const PREFIX: &str = "weft-";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CHECKSUM_LABEL: &[u8] = b"weft secret checksum v1";
const SECRET_LEN: usize = 32;
const CODE_LEN: usize = SECRET_LEN + 3;
const LETTERS: usize = CODE_LEN * 8 / 5;
const GROUP: usize = 8;
/// So many letters and digits behind the prefix are no password that somebody thought up.
const MEANT_LETTERS: usize = 40;
/// So many full groups are none either.
const MEANT_GROUPS: usize = 2;

/// A new secret in the form that people copy around: 256 random bits with a checksum.
pub fn generate(entropy: &Entropy) -> Zeroizing<String> {
    let secret = entropy.secret::<SECRET_LEN>();
    let mut code = Zeroizing::new([0; CODE_LEN]);
    code[..SECRET_LEN].copy_from_slice(&secret[..]);
    code[SECRET_LEN..].copy_from_slice(&checksum(&secret));
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + LETTERS + LETTERS / GROUP));
    text.push_str(PREFIX);
    for (at, letter) in encode(&code).enumerate() {
        if at > 0 && at % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(letter));
    }
    text
}

/// Whether `text` was meant to be a generated secret, right or wrong.
pub(super) fn is_meant(text: &str) -> bool {
    let Some(rest) = without_prefix(text) else { return false };
    let letters = rest.bytes().filter(|&b| b != b'-').count();
    let groups: Vec<&str> = rest.split('-').collect();
    let full = groups.iter().take_while(|group| group.len() == GROUP).count();
    let plain = rest.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric());
    plain && (letters >= MEANT_LETTERS || (full >= MEANT_GROUPS && full + 1 >= groups.len()))
}

/// The secret of a text that [`is_meant`] to be one; None if it was mistyped.
pub(super) fn parse(text: &str) -> Option<Zeroizing<[u8; SECRET_LEN]>> {
    let letters = without_prefix(text)?.bytes().filter(|&b| b != b'-');
    let code = decode(letters)?;
    let (secret, sum) = code.split_first_chunk::<SECRET_LEN>()?;
    (sum == checksum(secret)).then(|| Zeroizing::new(*secret))
}

fn without_prefix(text: &str) -> Option<&str> {
    let (prefix, rest) = text.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(rest)
}

fn checksum(secret: &[u8; SECRET_LEN]) -> [u8; 3] {
    let [a, b, c, ..] = kdf::sha256(&[CHECKSUM_LABEL, secret]);
    [a, b, c]
}

/// Five bytes are eight letters.
fn encode(code: &[u8; CODE_LEN]) -> impl Iterator<Item = u8> {
    code.chunks_exact(5).flat_map(|five| {
        let bits = five.iter().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
        (0..8).rev().filter_map(move |at| ALPHABET.get((bits >> (5 * at) & 31) as usize).copied())
    })
}

fn decode(letters: impl Iterator<Item = u8>) -> Option<Zeroizing<[u8; CODE_LEN]>> {
    let mut code = Zeroizing::new([0; CODE_LEN]);
    let mut count = 0;
    let mut bits = 0_u64;
    for letter in letters {
        let value = ALPHABET.iter().position(|&l| l == letter.to_ascii_lowercase())?;
        bits = bits << 5 | value as u64;
        count += 1;
        if count % 8 == 0 {
            let end = count * 5 / 8;
            code.get_mut(end - 5..end)?.copy_from_slice(&bits.to_be_bytes()[3..]);
            bits = 0;
        }
    }
    (count == LETTERS).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_is_read_back() {
        let text = generate(&Entropy::seeded([3; 32]));
        assert_eq!(text.len(), 5 + 56 + 6);
        let secret = Entropy::seeded([3; 32]).secret::<SECRET_LEN>();
        for form in [text.to_string(), text.to_uppercase(), text.replace('-', "").replacen("weft", "weft-", 1)] {
            assert!(is_meant(&form), "{form}");
            assert_eq!(parse(&form), Some(secret.clone()), "{form}");
        }
        assert_ne!(*text, *generate(&Entropy::System));
    }

    #[test]
    fn every_slip_of_one_letter_is_noticed() {
        let text = generate(&Entropy::seeded([3; 32])).to_string();
        for at in PREFIX.len()..text.len() {
            let (head, tail) = text.split_at(at);
            for slip in [format!("{head}{}", &tail[1..]), format!("{head}a{tail}"), format!("{head}7{}", &tail[1..])] {
                if slip.replace('-', "") != text.replace('-', "") {
                    assert!(is_meant(&slip) && parse(&slip).is_none(), "{slip}");
                }
            }
            assert!(at < 22 || (is_meant(head) && parse(head).is_none()), "{head}");
        }
    }

    #[test]
    fn passwords_are_not_taken_for_generated_secrets() {
        for password in ["weft", "weft-", "weft-lab-secret", "weft-password", "my weft-secret", "weft-a b c"] {
            assert!(!is_meant(password), "{password}");
        }
    }

    #[test]
    fn any_text_is_read_without_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            for text in [text.to_string(), format!("weft-{text}")] {
                if parse(&text).is_some() {
                    assert!(is_meant(&text));
                }
            }
        });
    }
}
