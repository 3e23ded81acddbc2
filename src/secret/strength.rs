//! How hard a password is to guess, roughly, in bits.
//!
//! A character counts as much as its alphabet is large. Less counts what people like: a very common word, any word, a run
//! along the alphabet, the digits or the keyboard, and whatever was there before. It is an estimate with limits: it has no
//! dictionary but a short list, so it takes two words written as one for random letters, knows no names, dates or quotations,
//! and only the commonest ways to disguise a word. It errs towards taking a password; `weft secret` needs no estimate.

/// Words that are tried first, and what people call the things at hand.
const COMMON: &str = "password passwort passwd passw secret letmein welcome iloveyou qwerty qwertz azerty monkey dragon \
                      master shadow sunshine princess football baseball superman batman starwars trustno whatever \
                      freedom michael charlie login admin root user guest test default changeme hello weft weave \
                      docker container network server kubernetes abc";
/// One of a few hundred words, in one of a few spellings.
const COMMON_BITS: f64 = 8.0;
/// One of 7776 words, as in the Diceware list.
const WORD_BITS: f64 = 12.92;
/// Letters of a word; longer runs are taken for random ones.
const WORD_LETTERS: std::ops::RangeInclusive<usize> = 3..=12;
/// A mark that was used before, such as the second hyphen between words.
const MARK_AGAIN_BITS: f64 = 1.0;
/// The start of a run or repetition: which one and how long. What follows costs nothing.
const RUN_BITS: f64 = 2.0;
const KEYBOARD: [&str; 4] = ["1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"];

/// The estimate for `text`.
pub(super) fn bits(text: &str) -> u32 {
    let chars: Vec<char> = text.chars().collect();
    let lower: Vec<char> = chars.iter().map(|c| c.to_ascii_lowercase()).collect();
    let plain: Vec<char> = lower.iter().map(|&c| undisguised(c)).collect();
    let each = alphabet(&chars).log2();
    let (mut bits, mut at, mut foreseen) = (0.0, 0, false);
    while at < chars.len() {
        let was_foreseen = std::mem::take(&mut foreseen);
        let word = common_word(&plain, at)
            .map(|len| (len, COMMON_BITS))
            .or_else(|| word(&chars, at).map(|len| (len, WORD_BITS.min(each * len as f64))));
        if let Some((len, cost)) = word {
            let was_there = lower[..at].windows(len).any(|earlier| *earlier == lower[at..at + len]);
            bits += if was_there { RUN_BITS } else { cost };
            at += len;
        } else if is_foreseeable(&lower, at) {
            bits += if was_foreseen { 0.0 } else { RUN_BITS };
            foreseen = true;
            at += 1;
        } else {
            let is_mark_again = !lower[at].is_alphanumeric() && lower[..at].contains(&lower[at]);
            bits += if is_mark_again { MARK_AGAIN_BITS } else { each };
            at += 1;
        }
    }
    // At most 1024 characters of at most 9 bits.
    bits as u32
}

/// How many characters are of the classes that occur.
fn alphabet(chars: &[char]) -> f64 {
    let has = |is_in: fn(&char) -> bool| chars.iter().any(is_in);
    let classes = [
        (has(char::is_ascii_lowercase), 26.0),
        (has(char::is_ascii_uppercase), 26.0),
        (has(char::is_ascii_digit), 10.0),
        (has(|c| c.is_ascii() && !c.is_ascii_alphanumeric()), 33.0),
        (has(|c| !c.is_ascii()), 100.0),
    ];
    classes.iter().filter(|(is_there, _)| *is_there).map(|(_, size)| size).sum()
}

/// Whether the character at `at` follows from those before it: the third or later of a run, or of an earlier sequence.
fn is_foreseeable(lower: &[char], at: usize) -> bool {
    let Some(&[a, b, c]) = at.checked_sub(2).and_then(|start| lower.get(start..=at)) else { return false };
    (is_step(a, b) && is_step(b, c)) || lower[..at].windows(3).any(|earlier| earlier == [a, b, c])
}

/// Whether two characters are the same or neighbours in the alphabet, the digits or a row of keys.
fn is_step(from: char, to: char) -> bool {
    let on_row = |row: &&str| row.find(from).zip(row.find(to)).is_some_and(|(from, to)| from.abs_diff(to) <= 1);
    u32::from(from).abs_diff(u32::from(to)) <= 1 || KEYBOARD.iter().any(on_row)
}

/// The letter that people replace by `c`.
fn undisguised(c: char) -> char {
    match c {
        '0' => 'o',
        '1' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        other => other,
    }
}

fn common_word(plain: &[char], at: usize) -> Option<usize> {
    let starts = |word: &&str| word.chars().enumerate().all(|(i, c)| plain.get(at + i) == Some(&c));
    COMMON.split(' ').filter(starts).map(str::len).max()
}

/// Length of the word that begins at `at`: letters of one case, the first of them perhaps a capital.
fn word(chars: &[char], at: usize) -> Option<usize> {
    let (before, first) = (at.checked_sub(1).and_then(|before| chars.get(before)), chars.get(at)?);
    let starts =
        before.is_none_or(|b| !b.is_ascii_alphabetic() || (b.is_ascii_lowercase() && first.is_ascii_uppercase()));
    if !starts || !first.is_ascii_alphabetic() {
        return None;
    }
    let rest = chars.get(at + 1..)?;
    let small = rest.iter().take_while(|c| c.is_ascii_lowercase()).count();
    let capital = rest.iter().take_while(|c| c.is_ascii_uppercase()).count();
    let len = 1 + if first.is_ascii_uppercase() { small.max(capital) } else { small };
    WORD_LETTERS.contains(&len).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{entropy::Entropy, secret::STRENGTH_MIN_BITS};

    #[test]
    fn what_people_like_is_weak() {
        for weak in [
            "a",
            "abc",
            "12345678",
            "1234567890",
            "password",
            "Password123!",
            "P4$$w0rd1!",
            "qwertyuiop",
            "letmein",
            "qwertyuiopasdfghjklzxcvbnm",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz",
            "abababababababababababababab",
            "aB3$aB3$aB3$aB3$aB3$aB3$",
            "weft weft weft weft weft",
            "hunter2",
            "correct horse battery",
            "horse horse horse horse horse horse",
            "20240101",
            "weft-lab",
            "secret-password-42",
            "aaaabbbbccccddddeeeeffff",
            "zyxwvutsrqponmlkj",
            "SuperSecretPassword1",
        ] {
            assert!(bits(weak) < STRENGTH_MIN_BITS, "{weak}: {}", bits(weak));
        }
    }

    #[test]
    fn random_text_and_four_words_are_strong() {
        for strong in [
            "correct horse battery staple",
            "Correct-Horse-Battery-Staple",
            "k3X#9v!qLm",
            "xkqjvbnwpzrtyhgd",
            "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            "9f86d081884c7d659a2feaa0c55ad015",
            "Qm9vIGhvbyBoYWhh",
        ] {
            assert!(bits(strong) >= STRENGTH_MIN_BITS, "{strong}: {}", bits(strong));
        }
    }

    #[test]
    fn any_random_token_is_strong() {
        let entropy = Entropy::seeded([5; 32]);
        let token = |alphabet: &str, len| -> String {
            let letters: Vec<char> = alphabet.chars().collect();
            (0..len).map(|_| letters[entropy.number() as usize % letters.len()]).collect()
        };
        let base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for _ in 0..500 {
            for (alphabet, len) in [(base64url, 43), (base64url, 22), ("0123456789abcdef", 32), ("0123456789", 32)] {
                let token = token(alphabet, len);
                assert!(bits(&token) >= STRENGTH_MIN_BITS, "{token}: {}", bits(&token));
            }
        }
    }

    #[test]
    fn any_text_has_an_estimate() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            assert!(bits(&text) <= 9 * text.chars().count() as u32);
        });
    }
}
