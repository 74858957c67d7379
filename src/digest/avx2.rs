//! SHA-256 of eight messages at once, one in each lane of AVX2's vectors. After FIPS 180-4; names are its own.

use std::arch::x86_64::{
    __m256i, _mm256_permute2x128_si256, _mm256_setr_epi8, _mm256_shuffle_epi8, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use fearless_simd::{Avx2, Level, prelude::*, u8x32, u32x8};

const LANES: usize = 8;

/// Bytes that one step takes in.
const BLOCK: usize = 64;
type Block = [u8; BLOCK];

/// A word of each message.
type Words = u32x8<Avx2>;
/// What is hashed so far, a word of each message in a row.
type State = [[u32; LANES]; 8];

/// Section 5.3.3: the first 32 bits of the fractional parts of the square roots of the first eight primes.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Section 4.2.2: those of the cube roots of the first 64 primes.
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// A processor that has AVX2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(Avx2);

impl Kernel {
    /// Messages hashed at once.
    pub(super) const LANES: usize = LANES;

    /// On a processor that has AVX2.
    pub(super) fn new() -> Option<Self> {
        Level::new().as_avx2().map(Self)
    }

    /// On a processor that does not hash faster, by instructions for SHA-256.
    pub(super) fn if_useful() -> Option<Self> {
        Self::new().filter(|_| !is_x86_feature_detected!("sha"))
    }

    /// Hashes at most [`Kernel::LANES`] messages in the time of the longest.
    pub(super) fn hash(self, messages: &[&[u8]]) -> Vec<[u8; 32]> {
        hash(self.0, messages)
    }
}

fn hash(avx2: Avx2, messages: &[&[u8]]) -> Vec<[u8; 32]> {
    assert!(messages.len() <= LANES, "{} messages have no lane", messages.len() - LANES);
    let ends: Vec<Vec<u8>> = messages.iter().map(|message| padded_end(message)).collect();
    // What is to come of each message: its whole blocks, and its end.
    let mut parts: Vec<[&[Block]; 2]> = Vec::new();
    for (message, end) in messages.iter().zip(&ends) {
        let (blocks, end) = (message.as_chunks().0, end.as_chunks().0);
        parts.push(if blocks.is_empty() { [end, &[]] } else { [blocks, end] });
    }
    let mut state = INITIAL.map(|word| [word; LANES]);
    let mut digests = vec![[0; 32]; messages.len()];
    // All go on as far as each of them can.
    while let Some(shortest) =
        parts.iter().map(|[now, _]| *now).filter(|now| !now.is_empty()).min_by_key(|now| now.len())
    {
        // A lane without a message, or behind its end, takes in what does not matter.
        let lanes = std::array::from_fn(|lane| match parts.get(lane) {
            Some([now, _]) if !now.is_empty() => &now[..shortest.len()],
            _ => shortest,
        });
        compress(avx2, &mut state, lanes);
        for (lane, (part, digest)) in parts.iter_mut().zip(&mut digests).enumerate() {
            let Some(rest) = part[0].get(shortest.len()..) else { continue };
            *part = if rest.is_empty() { [part[1], &[]] } else { [rest, part[1]] };
            if part[0].is_empty() {
                for (bytes, words) in digest.as_chunks_mut().0.iter_mut().zip(&state) {
                    *bytes = words[lane].to_be_bytes();
                }
            }
        }
    }
    digests
}

/// What stands behind the whole blocks: the rest, a bit, zeros, and the length in bits. Section 5.1.1.
fn padded_end(message: &[u8]) -> Vec<u8> {
    let mut end = message.as_chunks::<BLOCK>().1.to_vec();
    end.push(0x80);
    let zeros = (BLOCK - size_of::<u64>()).wrapping_sub(end.len()) % BLOCK;
    end.resize(end.len() + zeros, 0);
    end.extend_from_slice(&(8 * message.len() as u64).to_be_bytes());
    end
}

#[inline(always)]
fn rotr(x: Words, by: u32) -> Words {
    (x >> by) | (x << (u32::BITS - by))
}

fearless_simd::kernel!(
    /// Takes in all blocks, which must be as many in each lane. Section 6.2.2.
    fn compress(avx2: Avx2, state: &mut State, lanes: [&[Block]; 8]) {
        let mut sum: [Words; 8] = state.map(|words| words.simd_into(avx2));
        for block in 0..lanes[0].len() {
            let mut w = words(avx2, lanes.map(|lane| &lane[block]));
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = sum;
            for (round, k) in K.as_chunks::<16>().0.iter().enumerate() {
                for t in 0..16 {
                    if round > 0 {
                        let (w2, w7, w15) = (w[(t + 14) % 16], w[(t + 9) % 16], w[(t + 1) % 16]);
                        let sigma1 = rotr(w2, 17) ^ rotr(w2, 19) ^ (w2 >> 10);
                        let sigma0 = rotr(w15, 7) ^ rotr(w15, 18) ^ (w15 >> 3);
                        w[t] = sigma1 + w7 + sigma0 + w[t];
                    }
                    let sum1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
                    let ch = (e & (f ^ g)) ^ g;
                    let t1 = h + sum1 + ch + (w[t] + k[t]);
                    let sum0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
                    let maj = ((a ^ b) & (a ^ c)) ^ a;
                    (h, g, f, e, d, c, b, a) = (g, f, e, d + t1, c, b, a, t1 + sum0 + maj);
                }
            }
            for (sum, word) in sum.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *sum += word;
            }
        }
        *state = sum.map(Into::into);
    }
);

fearless_simd::kernel!(
    /// The words of a block of each lane, which are big-endian: word by word instead of lane by lane.
    #[inline]
    fn words(avx2: Avx2, blocks: [&Block; 8]) -> [Words; 16] {
        let swap = _mm256_setr_epi8(
            3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15,
            14, 13, 12,
        );
        let mut words = [u32x8::splat(avx2, 0); 16];
        for (half, words) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // Each step brings words together that stand twice as far apart as before: 1, 2, 4 lanes.
            let rows: [__m256i; 8] = blocks.map(|block| {
                let row: u8x32<Avx2> = block.as_chunks::<32>().0[half].simd_into(avx2);
                _mm256_shuffle_epi8(row.into(), swap)
            });
            let mut pairs = rows;
            for at in [0, 2, 4, 6] {
                pairs[at] = _mm256_unpacklo_epi32(rows[at], rows[at + 1]);
                pairs[at + 1] = _mm256_unpackhi_epi32(rows[at], rows[at + 1]);
            }
            let mut fours = pairs;
            for at in [0, 4] {
                fours[at] = _mm256_unpacklo_epi64(pairs[at], pairs[at + 2]);
                fours[at + 1] = _mm256_unpackhi_epi64(pairs[at], pairs[at + 2]);
                fours[at + 2] = _mm256_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
                fours[at + 3] = _mm256_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
            }
            for at in 0..4 {
                words[at] = _mm256_permute2x128_si256::<0x20>(fours[at], fours[at + 4]).simd_into(avx2);
                words[at + 4] = _mm256_permute2x128_si256::<0x31>(fours[at], fours[at + 4]).simd_into(avx2);
            }
        }
        words
    }
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(messages: &[Vec<u8>]) {
        let Some(kernel) = Kernel::new() else { return };
        let messages: Vec<&[u8]> = messages.iter().map(|message| &message[..]).collect();
        let expected = messages.iter().map(|message| ring::digest::digest(&ring::digest::SHA256, message));
        let expected: Vec<[u8; 32]> =
            expected.map(|digest| digest.as_ref().try_into().expect("256 bits")).collect();
        assert_eq!(kernel.hash(&messages), expected);
    }

    #[test]
    fn every_length_around_a_block_s_is_padded() {
        let message = |len: usize| (0..len).map(|at| (at * 7 + len) as u8).collect::<Vec<_>>();
        for len in 0..300 {
            check(&[message(len)]);
            check(&(0..LANES).map(|_| message(len)).collect::<Vec<_>>());
            check(&(0..LANES).map(|lane| message(len + lane * 13)).collect::<Vec<_>>());
        }
        check(&[]);
    }

    proptest! {
        #[test]
        fn any_messages_have_their_digests(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..=LANES),
        ) {
            check(&messages);
        }
    }
}
