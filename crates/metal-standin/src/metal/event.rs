//! `MTLSharedEvent`: a number that command buffers raise when they complete.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::queue::Line;
use crate::objc::class::class;
use crate::objc::object::Body;

/// The body of an event.
#[derive(Default)]
pub(crate) struct SharedEvent {
    value: AtomicU64,
    /// Lines with a command buffer that will signal it.
    promised: Mutex<Vec<Weak<Line>>>,
}

impl Body for SharedEvent {
    const CLASS: &'static str = "MTLSharedEvent";
}

impl SharedEvent {
    pub fn promised_by(&self, line: &Arc<Line>) {
        let mut promised = self.promised.lock().unwrap();
        if !promised.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(line))) {
            promised.push(Arc::downgrade(line));
        }
    }

    pub fn signal(&self, value: u64) {
        self.value.fetch_max(value, Ordering::AcqRel);
    }
}

class! { mtl_shared_event, SharedEvent, "MTLSharedEvent": "MTLObject";
    // Asking is waiting, as for a command buffer's `status`.
    - c"signaledValue" (this) -> u64 {
        let lines: Vec<_> = this.promised.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        for line in lines {
            while line.finish_one() {}
        }
        this.value.load(Ordering::Acquire)
    }
    - c"setSignaledValue:" (this, value: u64) { this.value.store(value, Ordering::Release) }
}
