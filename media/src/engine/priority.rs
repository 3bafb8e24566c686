//! Priority of threads: what can wait gives way to live audio.

#![allow(unsafe_code, reason = "a system call that the standard library does not wrap")]

/// Writers of recordings: ten seconds may pass before anything is lost.
pub(crate) const WRITERS: i32 = 5;
/// What completes them: nobody waits.
pub(crate) const SEALERS: i32 = 15;

/// Makes the calling thread so much nicer than it is by default, 0 to 19. A system that refuses it goes without.
pub(crate) fn lower(nice: i32) {
    // SAFETY: the call takes numbers only. On Linux `PRIO_PROCESS` with 0 means the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}
