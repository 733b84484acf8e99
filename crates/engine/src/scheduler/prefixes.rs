//! Caches of earlier requests, kept for later ones of the same owner that begin alike.

use super::Owner;
use crate::KvCache;
use std::collections::VecDeque;

pub(super) struct Prefixes {
    /// The last is the one that was used last.
    kept: VecDeque<Kept>,
    /// Bytes that they may take together.
    room: usize,
}

struct Kept {
    owner: Owner,
    tokens: Vec<u32>,
    cache: KvCache,
}

impl Prefixes {
    pub(super) fn new(room: usize) -> Self {
        Self { kept: VecDeque::new(), room }
    }

    /// A cache with room for `capacity` of the longest beginning that `prompt`, less its last token, has in common with anything kept for
    /// `owner`. The last token runs in any case: its logits are wanted.
    pub(super) fn find(&mut self, owner: Owner, prompt: &[u32], capacity: usize) -> Option<KvCache> {
        let before_last = prompt.len().saturating_sub(1);
        let common = |k: &Kept| k.tokens.iter().zip(prompt).take(before_last).take_while(|(a, b)| a == b).count();
        let owned = self.kept.iter().enumerate().filter(|(_, k)| k.owner == owner);
        let (at, len) = owned.map(|(at, k)| (at, common(k))).max_by_key(|(_, len)| *len).filter(|(_, len)| *len > 0)?;
        let used = self.kept.remove(at)?;
        let cache = used.cache.prefix(len, capacity);
        self.kept.push_back(used);
        Some(cache)
    }

    /// Keeps what `cache` holds of `tokens`, and lets go of what was used longest ago where there is no room.
    pub(super) fn keep(&mut self, owner: Owner, tokens: &[u32], cache: &KvCache) {
        if self.kept.iter().any(|k| k.owner == owner && k.tokens.starts_with(tokens)) {
            return;
        }
        self.kept.retain(|k| k.owner != owner || !tokens.starts_with(&k.tokens));
        self.kept.push_back(Kept { owner, tokens: tokens.to_vec(), cache: cache.prefix(tokens.len(), tokens.len()) });
        let mut bytes: usize = self.kept.iter().map(|k| k.cache.bytes()).sum();
        while bytes > self.room {
            let Some(oldest) = self.kept.pop_front() else { break };
            bytes -= oldest.cache.bytes();
        }
    }
}
