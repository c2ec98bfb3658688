"""Cache, padding and speculation as they were wrong elsewhere: each takes the right function and gives a wrong one."""


def goes_on_at_the_hit(_):
    """A prefix hit restores entries alone: no window rows, no open windows."""

    def adopt(self, known, entry_blocks, window_blocks, snapshots):
        for block in window_blocks.values():
            self.store.window_pool.release(block)
        self.entry_blocks.extend(entry_blocks)
        self.computed = self.known = self.base = self.top = known

    return adopt


def overlap_not_restored(copy_overlap):
    def buggy(self, boundary, restore):
        if not restore:
            copy_overlap(self, boundary, restore)

    return buggy


def index_overlap_not_restored(copy_overlap):
    """Only the attention's compressor comes back at a block boundary, not the indexer's."""

    def buggy(self, boundary, restore):
        states = [at.index_state for at in self.store.layers if at.index_state is not None]
        kept = [rows[self.state].clone() for rows in states] if restore else []
        copy_overlap(self, boundary, restore)
        for rows, before in zip(states if restore else [], kept, strict=True):
            rows[self.state] = before

    return buggy


def entries_stay(rollback):
    """Entries behind the step back count as known and are not written again."""

    def buggy(self, num_tokens):
        known = self.known
        rollback(self, num_tokens)
        self.known = known

    return buggy


def window_restarts_empty(restart):
    """Back at the token itself, whatever was overwritten since."""

    def buggy(self, n):
        restart(self, n)
        self.computed = self.top = self.base = n
        self.restore = False

    return buggy


def keeps_count(release):
    """The blocks are gone, but the sequence goes on where it was."""

    def buggy(self):
        computed = self.computed
        release(self)
        self.computed = self.known = self.base = self.top = computed

    return buggy


def never_copied(_):
    return lambda self, block: block


def one_root(root):
    return lambda salt: root(b"")


def padding_is_text(_):
    return lambda mask, ids: [(0, ids.shape[1])] * len(ids)


def accepts_every_guess(verify):
    def buggy(self, logits):
        return len(self.ids), self.sampling.next(logits[-1])

    return buggy
