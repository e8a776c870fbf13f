//! Every step from text to token ids, for people: what `fs tokenize --trace` prints.

use super::added_tokens::Part;
use super::bpe::{Bpe, Merge};
use super::pre_tokenizer::Pieces;
use super::{Tokenizer, byte_alphabet};
use serde::Serialize;
use std::fmt;

/// Each step that a text takes on its way to token ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The text given.
    pub text: String,
    /// The text in NFC, added tokens as they are. Spans count its bytes.
    pub normalized: String,
    /// Added tokens and pieces, in order.
    pub parts: Vec<TracePart>,
    /// All token ids.
    pub ids: Vec<u32>,
}

/// An added token or a piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TracePart {
    /// A token that was found in the text as it is.
    AddedToken {
        /// Its text.
        text: String,
        /// Where it is, `[start, end]` in bytes.
        span: [usize; 2],
        /// Its id.
        id: u32,
    },
    /// What the pre-tokenizer cut out; merges stay inside it.
    Piece {
        /// Its text.
        text: String,
        /// Where it is, `[start, end]` in bytes.
        span: [usize; 2],
        /// Its bytes, spelled in the byte alphabet: `Ġ` is a space.
        symbols: Vec<String>,
        /// The merges, in the order in which they happen.
        merges: Vec<MergeStep>,
        /// The ids of the symbols that are left.
        ids: Vec<u32>,
    },
}

/// One merge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MergeStep {
    /// The merge's position in the list of merges; of all neighbours the lowest rank goes first.
    pub rank: u32,
    /// Which symbol, counted from 0, merges with the one after it.
    pub at: usize,
    /// The left symbol.
    pub left: String,
    /// The right symbol.
    pub right: String,
    /// All symbols after the merge. Empty in a piece of more than 256 bytes, where it would take too much room.
    pub symbols: Vec<String>,
}

/// From this many bytes on, a piece's merges are listed without what they leave.
const LONG_PIECE: usize = 256;

/// The longest piece that is traced merge by merge: a step of the trace looks at all symbols.
const LONGEST_PIECE: usize = 16 * 1024;

impl Tokenizer {
    /// Encodes a text, noting each step. Slow, and the result is large: for texts that people look at. The merges of a
    /// piece of more than 16 KiB are left out.
    pub fn trace(&self, text: &str) -> Trace {
        let mut trace = Trace { text: text.to_string(), normalized: String::new(), parts: vec![], ids: vec![] };
        for part in self.parts(text) {
            let base = trace.normalized.len();
            match part {
                Part::Added(token) => {
                    let span = [base, base + token.content.len()];
                    trace.normalized.push_str(&token.content);
                    trace.parts.push(TracePart::AddedToken { text: token.content.clone(), span, id: token.id });
                    trace.ids.push(token.id);
                }
                Part::Text(text) => {
                    let text = self.normalize(text);
                    trace.normalized.push_str(&text);
                    for piece in Pieces::new(&text) {
                        let span = [base + piece.start, base + piece.end];
                        let (merges, ids) = self.trace_piece(&text[piece.clone()]);
                        trace.ids.extend_from_slice(&ids);
                        let text = text[piece].to_string();
                        let symbols = text.bytes().map(|byte| byte_alphabet::char_of(byte).to_string()).collect();
                        trace.parts.push(TracePart::Piece { text, span, symbols, merges, ids });
                    }
                }
            }
        }
        trace
    }

    /// The merges of a piece in their order, and the ids that are left.
    fn trace_piece(&self, piece: &str) -> (Vec<MergeStep>, Vec<u32>) {
        if piece.len() > LONGEST_PIECE {
            let mut ids = Vec::new();
            self.bpe().encode(piece.as_bytes(), &mut Default::default(), &mut ids);
            return (vec![], ids);
        }
        let spell = |id: u32| byte_alphabet::spell(self.token_bytes(id).unwrap_or_default());
        let mut symbols: Vec<u32> = self.bpe().symbols(piece.as_bytes()).collect();
        let mut merges = Vec::new();
        while let Some((at, merge)) = lowest(self.bpe(), &symbols) {
            let (left, right) = (spell(symbols[at]), spell(symbols[at + 1]));
            symbols.splice(at..at + 2, [merge.id]);
            let shown = if piece.len() > LONG_PIECE { &[] } else { symbols.as_slice() };
            let symbols = shown.iter().map(|&id| spell(id)).collect();
            merges.push(MergeStep { rank: merge.rank, at, left, right, symbols });
        }
        (merges, symbols)
    }
}

/// The lowest-ranked merge of two neighbours, the leftmost if there are several, and the place of the left one.
fn lowest(bpe: &Bpe, symbols: &[u32]) -> Option<(usize, Merge)> {
    let pairs = symbols.windows(2).enumerate();
    pairs.filter_map(|(at, pair)| Some((at, bpe.merge(pair[0], pair[1])?))).min_by_key(|(_, merge)| merge.rank)
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.normalized == self.text {
            true => writeln!(f, "text  {:?} (is in NFC)", self.text)?,
            false => writeln!(f, "text  {:?}\nNFC   {:?}", self.text, self.normalized)?,
        }
        for part in &self.parts {
            match part {
                TracePart::AddedToken { text, span, id } => {
                    writeln!(f, "\nadded token {text:?}  bytes {}..{}\n  id {id}", span[0], span[1])?;
                }
                TracePart::Piece { text, span, symbols, merges, ids } => {
                    writeln!(f, "\npiece {text:?}  bytes {}..{}", span[0], span[1])?;
                    writeln!(f, "  {:<28}{}", "bytes", symbols.join(" "))?;
                    for MergeStep { rank, left, right, symbols, .. } in merges {
                        let merge = format!("merge {rank}: {left} + {right}");
                        writeln!(f, "  {merge:<27} {}", symbols.join(" "))?;
                    }
                    writeln!(f, "  {} {}", if ids.len() == 1 { "id" } else { "ids" }, join(ids))?;
                }
            }
        }
        writeln!(f, "\nids {}", join(&self.ids))
    }
}

fn join(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
