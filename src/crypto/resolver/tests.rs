//! The published test vectors of the patterns in use, from the Cacophony suite (public domain).

use snow::{Builder, HandshakeState};

use super::*;

const PROLOGUE: &[u8] = b"John Galt";
const PSK: [u8; 32] = *b"This is my Austrian perspective!";
const INITIATOR_STATIC: &str = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1";
const INITIATOR_EPHEMERAL: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
const RESPONDER_STATIC: &str = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893";
const RESPONDER_EPHEMERAL: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
/// What the two say in turn, the initiator first.
const PAYLOADS: [&[u8]; 6] = [
    b"Ludwig von Mises",
    b"Murray Rothbard",
    b"F. A. Hayek",
    b"Carl Menger",
    b"Jean-Baptiste Say",
    b"Eugen B\xf6hm von Bawerk",
];
const XXPSK3_AESGCM: [&str; 6] = [
    "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944ad6766e442bec99c94ff573cd5316da008cbcc1ebcf47fbe43991ed633bcbb75",
    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884336a2439b0bafb5e97fee2c19b6f9f741125f810ad98e7e9659c48ca3e19652d316d1121073a281e0402b7bc1acb476caa1e7308faad7f75337b30f12435c98303cac63cac1d69ac11f2e1971e138ac",
    "2504a7905dbd6a56820581eb314085df196fda55aa5e77745d61c0b526355733d5ee67b9a4f345be7dc7c6583d3807626eb0f42c69388955ff0c9f35b03951129db18848a76f6a4d270022",
    "b20ca762013411bc55d65fc7137a2e719d432cd549cb037f5e9c84",
    "6b10e774950e93bc7cc50f225a105e656eb418310c00c374a81c1452b48cb12000",
    "6d617e8fd817a630755b8dffdee52ad3c39964bdca895a56847fd5f1edb49d14f555cc314b",
];
const IKPSK2_AESGCM: [&str; 6] = [
    "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79445a1baf339186d7867062b0dd31f5de322d370165d217939b2b7ed9e2bae7840458ea65c2ce1554e0e8077fe7334c4bd514c658fd04d97b86d216f58f59714a7e24144155045c8f36bed85a2cb0fd9af7",
    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088432fe8d675e949799d2a968211a66cc7ba2b0f4cad8eda3c2bd37eae737bbf88",
    "38cbf3835c78b7802df0dd0d9640ff8575debd0cb61cfb52590da1",
    "ffc365ff6955fc66c5d809b31ac995f812c5770bd29f0df12f0ffd",
    "a7f2828174c4ead2491ffeb77c41c890fd1229ee36f23ccb9066a795daff1cad6b",
    "3b86963d5c0e6e3b4153d77153836606393eefc4e5e6dae97796552d1265839ee3825cb80c",
];
const IKPSK2_CHACHAPOLY: [&str; 6] = [
    "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79442ec9b09893d0f510791784c10cbc959f25b1766e0def6e301d14fbca1c7790ac829b8b3674f5f649a5f0e98479662cbfbf2b2c47cd4b09fcd266cd29d7cb675f1808849707847840f6d178ec4d3733aa",
    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088439a1b3cebf680b2c74217fcb5eba4ff58a9468cd90c4aca6194f57479b379a7",
    "a8fde7a0accec190cd306c5950d4fd8e04a205ec288aa747d8b347",
    "59caddd9984a3bbe24c4fb31a2bd455b7eba3fa0980674b1a3a5f9",
    "3b9bfebd210c22ba0cff9de79b4007d7a552fffbf92616881faa8a883e25b80258",
    "f37512df1043d564d7c46ac85c53d3b6a9a05724bc297e7142808f217561651217fe85b782",
];

#[test]
fn the_patterns_in_use_say_what_the_published_vectors_say() {
    play("Noise_XXpsk3_25519_AESGCM_SHA256", 3, &XXPSK3_AESGCM);
    play("Noise_IKpsk2_25519_AESGCM_SHA256", 2, &IKPSK2_AESGCM);
    play("Noise_IKpsk2_25519_ChaChaPoly_SHA256", 2, &IKPSK2_CHACHAPOLY);
}

#[test]
fn one_seed_gives_one_ephemeral_key() {
    let first = |seed| {
        let setup = Builder::with_resolver("Noise_NN_25519_AESGCM_SHA256".parse().unwrap(), resolver(seed));
        let mut message = [0; 64];
        let len = setup.build_initiator().unwrap().write_message(&[], &mut message).unwrap();
        message[..len].to_vec()
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

/// Runs a handshake with the vectors' keys and compares every message, then the transport messages.
fn play(pattern: &str, psk: u8, messages: &[&str; 6]) {
    let mut initiator = start(pattern, psk, INITIATOR_STATIC, INITIATOR_EPHEMERAL, true);
    let mut responder = start(pattern, psk, RESPONDER_STATIC, RESPONDER_EPHEMERAL, false);
    let (mut buffer, mut opened) = ([0; 512], [0; 512]);
    let mut turn = 0;
    while !initiator.is_handshake_finished() {
        let (from, to) =
            if turn % 2 == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
        let len = from.write_message(PAYLOADS[turn], &mut buffer).unwrap();
        assert_eq!(buffer[..len], bytes(messages[turn]), "{pattern} message {turn}");
        let len = to.read_message(&buffer[..len], &mut opened).unwrap();
        assert_eq!(&opened[..len], PAYLOADS[turn]);
        turn += 1;
    }
    let (mut initiator, mut responder) =
        (initiator.into_transport_mode().unwrap(), responder.into_transport_mode().unwrap());
    for (turn, message) in messages.iter().enumerate().skip(turn) {
        let (from, to) =
            if turn % 2 == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
        let len = from.write_message(PAYLOADS[turn], &mut buffer).unwrap();
        assert_eq!(buffer[..len], bytes(message), "{pattern} message {turn}");
        assert!(to.read_message(&buffer[..len], &mut opened).is_ok());
    }
}

fn start(pattern: &str, psk: u8, secret: &str, ephemeral: &str, initiator: bool) -> HandshakeState {
    let (secret, ephemeral) = (bytes(secret), bytes(ephemeral));
    let responder = Identity::from_secret(Zeroizing::new(bytes(RESPONDER_STATIC).try_into().unwrap()));
    let builder = Builder::with_resolver(pattern.parse().unwrap(), resolver(0))
        .local_private_key(&secret)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&ephemeral)
        .prologue(PROLOGUE)
        .unwrap()
        .psk(psk, &PSK)
        .unwrap();
    if !initiator {
        return builder.build_responder().unwrap();
    }
    let public = responder.public();
    let builder = if pattern.contains("_IK") { builder.remote_public_key(&public.0).unwrap() } else { builder };
    builder.build_initiator().unwrap()
}

fn resolver(seed: u8) -> Box<Resolver> {
    Box::new(Resolver(Entropy::seeded([seed; 32])))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}
