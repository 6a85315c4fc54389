/// The 64-bit MurmurHash2 of libstdc++ with its seed, by which Envoy places hosts for `MURMUR_HASH_2`.
pub(super) fn murmur_hash_2(text: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = SEED ^ (text.len() as u64).wrapping_mul(MUL);
    let mut words = text.chunks_exact(8);
    for word in &mut words {
        let data = mix(little_endian(word).wrapping_mul(MUL)).wrapping_mul(MUL);
        hash = (hash ^ data).wrapping_mul(MUL);
    }
    if !words.remainder().is_empty() {
        hash = (hash ^ little_endian(words.remainder())).wrapping_mul(MUL);
    }
    mix(mix(hash).wrapping_mul(MUL))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
