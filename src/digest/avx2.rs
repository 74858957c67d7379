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
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

/// Section 4.2.2: those of the cube roots of the first 64 primes.
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
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
            compress(self.0, &mut state, lanes);
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
    fn compress(avx2: Avx2, state: &mut State, lanes: [&[Block]; LANES]) {
        let mut sum: [Words; 8] = state.map(|words| words.simd_into(avx2));
        for block in 0..lanes[0].len() {
            let mut w = words(avx2, lanes.map(|lane| &lane[block]));
            let mut v = sum;
            // Without a macro, the compiler keeps loops here, and moves eight words on in each round.
            macro_rules! rounds {
                ($k:ident, $first:ident, $($t:literal)*) => { $({
                    const T: usize = $t;
                    if !$first {
                        let (w2, w7, w15) = (w[(T + 14) % 16], w[(T + 9) % 16], w[(T + 1) % 16]);
                        let sigma1 = rotr(w2, 17) ^ rotr(w2, 19) ^ (w2 >> 10);
                        let sigma0 = rotr(w15, 7) ^ rotr(w15, 18) ^ (w15 >> 3);
                        w[T] = sigma1 + w7 + sigma0 + w[T];
                    }
                    // Where each stands in this round: h is the next round's a.
                    let [a, b, c, d, e, f, g, h] = [0, 1, 2, 3, 4, 5, 6, 7].map(|at| (at + 16 - T) % 8);
                    let sum1 = rotr(v[e], 6) ^ rotr(v[e], 11) ^ rotr(v[e], 25);
                    let ch = (v[e] & (v[f] ^ v[g])) ^ v[g];
                    let t1 = v[h] + sum1 + ch + (w[T] + $k[T]);
                    let sum0 = rotr(v[a], 2) ^ rotr(v[a], 13) ^ rotr(v[a], 22);
                    let maj = ((v[a] ^ v[b]) & (v[a] ^ v[c])) ^ v[a];
                    v[d] += t1;
                    v[h] = t1 + sum0 + maj;
                })* };
            }
            for (sixteen, k) in K.as_chunks::<16>().0.iter().enumerate() {
                let first = sixteen == 0;
                rounds!(k, first, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            }
            for (sum, word) in sum.iter_mut().zip(v) {
                *sum += word;
            }
        }
        *state = sum.map(Into::into);
    }
);

fearless_simd::kernel!(
    /// The words of a block of each lane, which are big-endian: word by word instead of lane by lane.
    #[inline]
    fn words(avx2: Avx2, blocks: [&Block; LANES]) -> [Words; 16] {
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
