/// MT19937, the Mersenne Twister: the hosts that stand in for an overloaded one are drawn by it, so that equal hashes
/// get equal stand-ins, those of Envoy.
pub(super) struct Mersenne {
    state: [u32; N],
    next: usize,
}

const N: usize = 624;
const M: usize = 397;

// === impl Mersenne ===

impl Mersenne {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let bucket = ((1_u64 << 32) / u64::from(bound)) as u32;
        // With a bound of 1 the only bucket is too large for its number.
        loop {
            let drawn = self.u32();
            let number = drawn.checked_div(bucket).unwrap_or(0);
            if number < bound {
                return number;
            }
        }
    }

    fn u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_number_is_that_of_the_standard() {
        // C++, [rand.predef]: of a default-constructed std::mt19937.
        let mut random = Mersenne::new(5489);
        let last = (0..10_000).map(|_| random.u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut random = Mersenne::new(1);
        for bound in [1, 2, 3, 10, 1000] {
            assert!((0..100).all(|_| random.below(bound) < bound), "{bound}");
        }
    }
}
