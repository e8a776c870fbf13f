//! Token ids and their bytes, in both directions.

use std::collections::HashMap;

/// Keys up to this length fit into a [`ShortKey`]; nine in ten pieces of English text do, and most tokens.
pub const SHORT: usize = 15;

/// Up to 15 bytes and their count in two words: equal keys mean equal bytes, and comparing them is a few instructions. One
/// integer of 16 bytes would be aligned to as many, and a [`Slot`] would have 12 bytes of nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortKey([u64; 2]);

impl ShortKey {
    /// No bytes; no token has this key.
    pub const EMPTY: ShortKey = ShortKey([0; 2]);

    /// The key of `text[range]`, whose length is at most [`SHORT`].
    #[inline(always)]
    pub fn new(text: &[u8], range: std::ops::Range<usize>) -> ShortKey {
        let length = range.len();
        debug_assert!(length <= SHORT);
        let bytes = match text.get(range.start..range.start + 16) {
            // One wide load; the mask removes what follows the key.
            Some(wide) => {
                let wide = u128::from_le_bytes(wide.try_into().expect("16 bytes"));
                wide & ((1 << (8 * length)) - 1)
            }
            None => {
                let mut narrow = [0; 16];
                narrow[..length].copy_from_slice(&text[range]);
                u128::from_le_bytes(narrow)
            }
        };
        ShortKey([bytes as u64, (bytes >> 64) as u64 | (length as u64) << 56])
    }

    /// Mixes all bits into 64: the two halves multiplied, and the product's halves folded together.
    #[inline(always)]
    pub fn hash(self) -> u64 {
        fold(self.0[0] ^ 0x9E37_79B9_7F4A_7C15, self.0[1] ^ 0xD1B5_4A32_D192_ED03)
    }
}

/// A 64 x 64 bit product, its upper half folded onto its lower half: every bit of the result depends on every bit given.
#[inline(always)]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[derive(Clone, Copy)]
struct Slot {
    key: ShortKey,
    id: u32,
}

/// All tokens: bytes by id, and id by bytes.
pub struct Vocabulary {
    /// The bytes of all tokens, in the order of the file.
    arena: Vec<u8>,
    /// Start and length in `arena`, by id; a length of zero is an id that has no token (yet).
    places: Vec<(u32, u32)>,
    /// Open addressing with linear probing; the length is a power of two and at most three quarters are used.
    short: Vec<Slot>,
    /// Tokens of more than [`SHORT`] bytes.
    long: HashMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    /// An empty vocabulary with room for the ids `0..tokens`. There must be as many tokens at hand: nothing that a file
    /// merely claims may size it.
    pub fn with_room(tokens: usize) -> Vocabulary {
        let slots = (tokens + tokens / 3 + 1).next_power_of_two();
        Vocabulary {
            arena: Vec::with_capacity(8 * tokens),
            places: vec![(0, 0); tokens],
            short: vec![Slot { key: ShortKey::EMPTY, id: 0 }; slots],
            long: HashMap::new(),
        }
    }

    /// Gives an id its bytes, which can then be found by [`get`](Self::get); says what is wrong if it can't be.
    pub fn insert(&mut self, id: u32, bytes: &[u8]) -> Result<(), String> {
        let twice = |first| Err(format!("token {id} is spelled {}, as token {first} is", show(bytes)));
        if bytes.len() > SHORT {
            if let Some(first) = self.long.get(bytes) {
                return twice(first);
            }
            self.long.insert(bytes.into(), id);
        } else {
            let key = ShortKey::new(bytes, 0..bytes.len());
            let at = self.slot(key);
            if self.short[at].key == key && key != ShortKey::EMPTY {
                return twice(&self.short[at].id);
            }
            self.short[at] = Slot { key, id };
        }
        self.name(id, bytes)
    }

    /// Gives an id its bytes without making them findable: for added tokens, which are not made by merging.
    pub fn name(&mut self, id: u32, bytes: &[u8]) -> Result<(), String> {
        let tokens = self.places.len();
        if bytes.is_empty() {
            return Err(format!("token {id} is empty"));
        }
        let Some(place) = self.places.get_mut(id as usize) else {
            return Err(format!("token {} has id {id}, but with {tokens} tokens ids must be below that", show(bytes)));
        };
        if place.1 != 0 {
            let first = &self.arena[place.0 as usize..][..place.1 as usize];
            return Err(format!("id {id} is given to two tokens, {} and {}", show(first), show(bytes)));
        }
        let end = u32::try_from(self.arena.len() + bytes.len()).map_err(|_| "the tokens exceed 4 GiB".to_string())?;
        *place = (self.arena.len() as u32, bytes.len() as u32);
        debug_assert_eq!(place.0 + place.1, end);
        self.arena.extend_from_slice(bytes);
        Ok(())
    }

    /// The first id that has no token.
    pub fn first_gap(&self) -> Option<usize> {
        self.places.iter().position(|place| place.1 == 0)
    }

    /// Forgets the room for ids from `tokens` on.
    pub fn truncate(&mut self, tokens: usize) {
        self.places.truncate(tokens);
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The bytes of a token.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let &(start, length) = self.places.get(id as usize)?;
        Some(&self.arena[start as usize..][..length as usize])
    }

    /// The token that is spelled `bytes`.
    pub fn get(&self, bytes: &[u8]) -> Option<u32> {
        match bytes.len() {
            0..=SHORT => self.get_short(ShortKey::new(bytes, 0..bytes.len())),
            _ => self.get_long(bytes),
        }
    }

    /// The token of a key.
    #[inline(always)]
    pub fn get_short(&self, key: ShortKey) -> Option<u32> {
        let slot = &self.short[self.slot(key)];
        (slot.key == key && key != ShortKey::EMPTY).then_some(slot.id)
    }

    /// The token of more than [`SHORT`] bytes that is spelled `bytes`.
    pub fn get_long(&self, bytes: &[u8]) -> Option<u32> {
        self.long.get(bytes).copied()
    }

    /// Where `key` is, or would be inserted.
    #[inline(always)]
    fn slot(&self, key: ShortKey) -> usize {
        let mask = self.short.len() - 1;
        let mut at = key.hash() as usize & mask;
        while self.short[at].key != key && self.short[at].key != ShortKey::EMPTY {
            at = (at + 1) & mask;
        }
        at
    }
}

/// Bytes as an error message shows them.
fn show(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
