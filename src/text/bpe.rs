//! Byte-pair encoding: the merges, and how they turn a piece of text into tokens.
//!
//! A piece starts as one symbol a byte. The list of merges, learned in training and ordered by rank, says which pairs of
//! neighbours may become one symbol. The rule: **of all neighbouring pairs, merge the one with the lowest rank, the leftmost if
//! there are several; repeat until no pair has a merge.** What is left are the tokens.

use super::vocabulary::{Vocabulary, fold};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::OnceLock;

/// What becomes of a pair of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The position in the list of merges: lower ranks merge first.
    pub rank: u32,
    /// The token that the pair becomes.
    pub id: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    pair: u64,
    merge: Merge,
}

/// The rank of a pair that has no merge; a file can't have as many merges.
const NO_RANK: u32 = u32::MAX;

const NO_MERGE: Merge = Merge { rank: NO_RANK, id: u32::MAX };

/// The pair that marks a free slot: no token has an id of 2^32 - 1.
const FREE: u64 = u64::MAX;

/// Pieces up to this many bytes are merged by the plain loop, whose work is quadratic; longer ones with lists.
const PLAIN: usize = 48;

/// The merges of a tokenizer.
pub struct Bpe {
    /// The token of each byte.
    byte_ids: [u32; 256],
    /// From a pair of tokens to its merge: open addressing, linear probing, at most three quarters full.
    slots: Vec<Slot>,
    /// Left part, right part and result of each merge, by rank.
    parts: Vec<(u32, u32, u32)>,
    /// See [`whole`](Self::whole).
    whole: OnceLock<Vec<bool>>,
}

/// Working memory, so that encoding a piece allocates nothing.
#[derive(Default)]
pub struct Scratch {
    symbols: Vec<u32>,
    merges: Vec<Merge>,
}

impl Bpe {
    /// Collects merges, given as pairs of strings of bytes in order of rank. Says what is wrong with one whose parts or
    /// result are not in the vocabulary.
    pub fn new<'a>(
        vocabulary: &Vocabulary,
        merges: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Bpe, String> {
        let mut byte_ids = [0; 256];
        for byte in 0..=255u8 {
            let Some(id) = vocabulary.get(&[byte]) else {
                return Err(format!("no token for the byte 0x{byte:02X}: a byte-level vocabulary has all 256"));
            };
            byte_ids[usize::from(byte)] = id;
        }
        let slots = (merges.len() + merges.len() / 3 + 1).next_power_of_two();
        let slots = vec![Slot { pair: FREE, merge: NO_MERGE }; slots];
        let mut bpe = Bpe { byte_ids, slots, parts: find_ids(vocabulary, merges)?, whole: OnceLock::new() };
        for rank in 0..bpe.parts.len() {
            let (left, right, id) = bpe.parts[rank];
            let at = bpe.slot(left, right);
            if bpe.slots[at].pair != FREE {
                return Err(format!("merge {rank} repeats merge {}", bpe.slots[at].merge.rank));
            }
            bpe.slots[at] = Slot { pair: pair(left, right), merge: Merge { rank: rank as u32, id } };
        }
        Ok(bpe)
    }

    /// Left part, right part and result of each merge, by rank.
    pub fn parts(&self) -> &[(u32, u32, u32)] {
        &self.parts
    }

    /// By id, whether merging the bytes of this token is known to end in it, so that the merging can be skipped; ids above
    /// the table's end are not. Made on first use: that takes longer than encoding a short text without it.
    pub fn whole(&self) -> &[bool] {
        self.whole.get_or_init(|| self.find_whole())
    }

    /// The merge of two neighbours.
    #[inline(always)]
    pub fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        Some(self.lookup(left, right)).filter(|merge| *merge != NO_MERGE)
    }

    #[inline(always)]
    fn lookup(&self, left: u32, right: u32) -> Merge {
        self.slots[self.slot(left, right)].merge
    }

    /// Where the pair is, or would be inserted.
    #[inline(always)]
    fn slot(&self, left: u32, right: u32) -> usize {
        let (pair, mask) = (pair(left, right), self.slots.len() - 1);
        let mut at = fold(pair, 0x9E37_79B9_7F4A_7C15) as usize & mask;
        while self.slots[at].pair != pair && self.slots[at].pair != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    /// The symbols that a piece starts as: the token of each byte.
    pub fn symbols(&self, piece: &[u8]) -> impl Iterator<Item = u32> {
        piece.iter().map(|&byte| self.byte_ids[usize::from(byte)])
    }

    /// Appends the tokens of a piece.
    pub fn encode(&self, piece: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { symbols, merges } = scratch;
        symbols.clear();
        symbols.extend(self.symbols(piece));
        merges.clear();
        merges.extend(symbols.windows(2).map(|pair| self.lookup(pair[0], pair[1])));
        match piece.len() {
            0..=PLAIN => self.merge_plain(symbols, merges),
            _ => self.merge_long(symbols, merges),
        }
        ids.extend_from_slice(symbols);
    }

    // ANCHOR: merge_plain
    /// The rule as it is written: look for the lowest rank, merge it, close the gap. `merges[i]` is what
    /// `symbols[i]` and `symbols[i + 1]` can become.
    fn merge_plain(&self, symbols: &mut Vec<u32>, merges: &mut Vec<Merge>) {
        // EXERCISE: m0.bpe_merge
        while let Some((at, &merge)) = merges.iter().enumerate().min_by_key(|(_, merge)| merge.rank)
            && merge != NO_MERGE
        {
            symbols[at] = merge.id;
            symbols.remove(at + 1);
            merges.remove(at);
            if at > 0 {
                merges[at - 1] = self.lookup(symbols[at - 1], merge.id);
            }
            if at < merges.len() {
                merges[at] = self.lookup(merge.id, symbols[at + 1]);
            }
        }
        // EXERCISE_END
    }
    // ANCHOR_END: merge_plain

    /// The same rule in `n log n` steps: places wait in lists by rank instead of being searched for, and removed symbols
    /// are skipped by links instead of moving all that follow. Without it, a megabyte of one letter would take hours.
    fn merge_long(&self, symbols: &mut Vec<u32>, merges: &mut [Merge]) {
        const GONE: u32 = u32::MAX;
        let count = symbols.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        // A place is where a pair starts. It is out of date when a neighbour merges first: then `merges[at]` differs.
        let mut waiting: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, merge) in merges.iter().enumerate().filter(|(_, merge)| **merge != NO_MERGE) {
            waiting.entry(merge.rank).or_default().push(at);
        }
        while let Some((lowest, mut places)) = waiting.pop_first() {
            places.sort_unstable();
            let mut places = places.into_iter().map(|at| (lowest, at)).peekable();
            // Pairs that come about meanwhile and don't rank above `lowest`. Rare: most pairs are learned after their parts.
            let mut early = BinaryHeap::new();
            loop {
                let first_early = early.peek().map(|&Reverse(place)| place);
                let Some((rank, at)) = first_early.into_iter().chain(places.peek().copied()).min() else { break };
                if first_early == Some((rank, at)) {
                    early.pop();
                } else {
                    places.next();
                }
                if merges.get(at).is_none_or(|merge| merge.rank != rank) {
                    continue;
                }
                let (right, id) = (next[at], merges[at].id);
                let after = next[right];
                (symbols[at], symbols[right]) = (id, GONE);
                merges[at] = NO_MERGE;
                if right < merges.len() {
                    merges[right] = NO_MERGE;
                }
                next[at] = after;
                if after < count {
                    previous[after] = at;
                }
                for (left, right) in [(previous[at], at), (at, after)] {
                    if left < count && right < count {
                        merges[left] = self.lookup(symbols[left], symbols[right]);
                        match merges[left].rank {
                            NO_RANK => {}
                            rank if rank <= lowest => early.push(Reverse((rank, left))),
                            rank => waiting.entry(rank).or_default().push(left),
                        }
                    }
                }
            }
        }
        symbols.retain(|&symbol| symbol != GONE);
    }
}

/// The left part, right part and result of each merge as ids.
///
/// Nearly all the time goes into waiting for memory. This loop does nothing else, so that the processor waits for several
/// look-ups at once; the merges are entered in a loop of their own for the same reason.
fn find_ids<'a>(
    vocabulary: &Vocabulary,
    merges: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<(u32, u32, u32)>, String> {
    let mut found: Vec<(u32, u32, u32)> = Vec::with_capacity(merges.len());
    let mut joined = Vec::new();
    for (rank, (left, right)) in merges.enumerate() {
        let token = |bytes: &[u8], part: &str| {
            let shown = || String::from_utf8_lossy(bytes);
            vocabulary.get(bytes).ok_or_else(|| format!("merge {rank}: {part} {:?} is not in the vocabulary", shown()))
        };
        // Mostly each merge makes the token after the last one's: looking there first spares a search.
        let likely = found.last().map_or(0, |(.., last)| last + 1);
        let id = match vocabulary.bytes(likely).and_then(|bytes| bytes.strip_prefix(left)) {
            Some(rest) if rest == right => Some(likely),
            _ => {
                joined.clear();
                joined.extend_from_slice(left);
                joined.extend_from_slice(right);
                vocabulary.get(&joined)
            }
        };
        let (left, right) = (token(left, "left part")?, token(right, "right part")?);
        found.push((left, right, id.map_or_else(|| token(&joined, "result"), Ok)?));
    }
    Ok(found)
}

/// How a token comes about.
#[derive(Clone, Copy, Default)]
struct Origin {
    left: u32,
    right: u32,
    rank: u32,
    /// How many merges make it; none for a byte.
    ways: u8,
}

impl Bpe {
    /// Finds the tokens that merging their own bytes ends in.
    ///
    /// Most pieces of a text are words that the vocabulary has. For such a piece the merges can be skipped, but only if they
    /// would end in that one token: a pair across the middle could merge too early and leave other tokens. So the
    /// token's last merge, `left` + `right`, is taken back, then the merges beside the boundary, latest first. If at no
    /// time the two symbols that face each other across the boundary could have merged before the boundary was due,
    /// nothing disturbs `left` and `right` on their way, and the token is whole.
    ///
    /// A token that two merges make, or whose parts are not known to be whole, is left out: its merges are simply run.
    fn find_whole(&self) -> Vec<bool> {
        let ids = self.parts.iter().flat_map(|&(left, right, id)| [left, right, id]);
        let ids = ids.chain(self.byte_ids).max().map_or(0, |last| last as usize + 1);
        let (mut origins, mut whole) = (vec![Origin::default(); ids], vec![false; ids]);
        for (rank, &(left, right, id)) in self.parts.iter().enumerate() {
            let ways = origins[id as usize].ways.saturating_add(1);
            origins[id as usize] = Origin { left, right, rank: rank as u32, ways };
        }
        for id in self.byte_ids {
            whole[id as usize] = true;
        }
        // In order of rank, so that the parts of a token are decided before it, or not whole.
        for &(.., id) in &self.parts {
            let origin = origins[id as usize];
            let parts_whole = whole[origin.left as usize] && whole[origin.right as usize];
            whole[id as usize] = origin.ways == 1 && parts_whole && self.boundary_holds(&origins, origin);
        }
        whole
    }

    /// Whether nothing merges across the boundary of a token's two parts, both whole, before they themselves do.
    fn boundary_holds(&self, origins: &[Origin], token: Origin) -> bool {
        let Origin { mut left, mut right, .. } = token;
        loop {
            let (l, r) = (origins[left as usize], origins[right as usize]);
            let due = if l.ways > 0 && (r.ways == 0 || l.rank > r.rank) {
                left = l.right;
                l.rank
            } else if r.ways > 0 {
                right = r.left;
                // Of two merges with one rank the left one goes first: a pair across the boundary would win a tie.
                r.rank + 1
            } else {
                return true;
            };
            if self.lookup(left, right).rank < due {
                return false;
            }
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;
    use proptest::prelude::*;

    /// Few letters and random merges, among them ones whose result merges at a lower rank, and tokens that can be made in
    /// two ways: what trained files rarely or never have.
    fn small_bpe(pairs: &[(usize, usize)]) -> (Vocabulary, Bpe) {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut pool: Vec<Vec<u8>> = vec![b"a".to_vec(), b"b".to_vec()];
        let mut merges = Vec::new();
        for &(left, right) in pairs {
            let (left, right) = (pool[left % pool.len()].clone(), pool[right % pool.len()].clone());
            let joined = [left.clone(), right.clone()].concat();
            if joined.len() > 12 || merges.contains(&(left.clone(), right.clone())) {
                continue;
            }
            if !tokens.contains(&joined) {
                tokens.push(joined.clone());
                pool.push(joined);
            }
            merges.push((left, right));
        }
        // The order is turned about, so that ranks don't follow lengths.
        let middle = merges.len() / 2;
        merges.rotate_left(middle);
        let mut vocabulary = Vocabulary::with_room(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            vocabulary.insert(id as u32, token).unwrap();
        }
        let bpe = Bpe::new(&vocabulary, merges.iter().map(|(l, r)| (l.as_slice(), r.as_slice()))).unwrap();
        (vocabulary, bpe)
    }

    #[test]
    fn merging_by_hand() {
        let mut vocabulary = Vocabulary::with_room(300);
        (0..=255).for_each(|byte| vocabulary.insert(byte.into(), &[byte]).unwrap());
        let merges =
            [("b", "c"), ("a", "b"), ("a", "bc"), ("d", "d"), ("c", "d"), ("bc", "d"), ("e", "f"), ("g", "ef")];
        for (id, (left, right)) in (256..).zip(merges) {
            vocabulary.insert(id, format!("{left}{right}").as_bytes()).unwrap();
        }
        let bpe = Bpe::new(&vocabulary, merges.iter().map(|(l, r)| (l.as_bytes(), r.as_bytes()))).unwrap();
        for (text, expected) in [
            // `e f`, and then `g` has a neighbour that it can merge with.
            ("gef", vec![263]),
            // `b c` has rank 0 and goes before `a b` with rank 1; then `a bc`.
            ("abc", vec![258]),
            // Two pairs `d d` with one rank: the left one goes first.
            ("ddd", vec![259, 100]),
            // After `b c`, its right neighbour is no longer `c`, which could have become `cd`.
            ("bcd", vec![261]),
            ("xabcab", vec![120, 258, 257]),
            ("q", vec![113]),
        ] {
            let mut symbols: Vec<u32> = bpe.symbols(text.as_bytes()).collect();
            let mut merges = symbols.windows(2).map(|pair| bpe.lookup(pair[0], pair[1])).collect();
            bpe.merge_plain(&mut symbols, &mut merges);
            expect::same(&format!("tokens of {text:?}"), &symbols, &expected);
        }
    }

    /// A part that no merge makes, with the highest id of all: nothing can be said of the token made of it.
    #[test]
    fn a_part_that_nothing_makes_is_not_whole() {
        let mut vocabulary = Vocabulary::with_room(258);
        (0..=255).for_each(|byte| vocabulary.insert(byte.into(), &[byte]).unwrap());
        vocabulary.insert(256, b"zza").unwrap();
        vocabulary.insert(257, b"zz").unwrap();
        let bpe = Bpe::new(&vocabulary, [(b"zz".as_slice(), b"a".as_slice())].into_iter()).unwrap();
        assert_eq!(bpe.whole()[255..], [true, false, false]);
    }

    proptest! {
        /// Both ways to merge give the same tokens, and a token that is called whole is what its bytes merge to.
        #[test]
        fn the_fast_ways_equal_the_rule(
            pairs in prop::collection::vec((0usize..40, 0usize..40), 0..40),
            text in "[ab]{0,60}",
        ) {
            let (vocabulary, bpe) = small_bpe(&pairs);
            let run = |text: &[u8], long: bool| {
                let mut symbols: Vec<u32> = bpe.symbols(text).collect();
                let mut merges: Vec<Merge> = symbols.windows(2).map(|pair| bpe.lookup(pair[0], pair[1])).collect();
                if long { bpe.merge_long(&mut symbols, &mut merges) } else { bpe.merge_plain(&mut symbols, &mut merges) }
                symbols
            };
            prop_assert_eq!(run(text.as_bytes(), true), run(text.as_bytes(), false));
            for id in 0..vocabulary.len() as u32 {
                if bpe.whole().get(id as usize) == Some(&true) {
                    prop_assert_eq!(run(vocabulary.bytes(id).unwrap(), false), [id]);
                }
            }
        }
    }
}
