//! `MTLResidencySet` (macOS 15): what the GPU should keep mapped. Here everything always is; only the rules are kept.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::buffer::Buffer;
use crate::objc::class::class;
use crate::objc::object::{Body, Object, Retained};

/// The body of a residency set's description.
#[derive(Default)]
pub(crate) struct ResidencySetDescriptor(AtomicUsize);

impl Body for ResidencySetDescriptor {
    const CLASS: &'static str = "MTLResidencySetDescriptor";
}

/// The body of a residency set: it owns its buffers.
#[derive(Default)]
pub(crate) struct ResidencySet(Mutex<Vec<Retained<Buffer>>>);

impl Body for ResidencySet {
    const CLASS: &'static str = "MTLResidencySet";
}

class! { mtl_residency_set_descriptor, ResidencySetDescriptor, "MTLResidencySetDescriptor": "MTLObject", ResidencySetDescriptor::default();
    - c"setInitialCapacity:" (this, count: usize) { this.0.store(count, Ordering::Relaxed) }
    - c"initialCapacity" (this) -> usize { this.0.load(Ordering::Relaxed) }
}

class! { mtl_residency_set, ResidencySet, "MTLResidencySet": "MTLObject";
    - c"addAllocation:" (this, buffer: Option<&Object>) {
        let buffer = Retained::<Buffer>::of(this.required(buffer, "the allocation"));
        let mut set = this.0.lock().unwrap();
        if !set.iter().any(|other| std::ptr::eq(other.object(), buffer.object())) {
            set.push(buffer);
        }
    }
    - c"removeAllocation:" (this, buffer: Option<&Object>) {
        let buffer = this.required(buffer, "the allocation");
        let mut set = this.0.lock().unwrap();
        let removed = set.iter().position(|other| std::ptr::eq(other.object(), buffer)).map(|index| set.remove(index));
        drop((set, removed));
    }
    - c"removeAllAllocations" (this) {
        let all = std::mem::take(&mut *this.0.lock().unwrap());
        drop(all);
    }
    - c"containsAllocation:" (this, buffer: Option<&Object>) -> bool {
        let buffer = this.required(buffer, "the allocation");
        this.0.lock().unwrap().iter().any(|other| std::ptr::eq(other.object(), buffer))
    }
    - c"allocationCount" (this) -> usize { this.0.lock().unwrap().len() }
    - c"allocatedSize" (this) -> u64 {
        this.0.lock().unwrap().iter().map(|buffer| buffer.allocation.length as u64).sum()
    }
    - c"commit" (this) {}
    - c"requestResidency" (this) {}
    - c"endResidency" (this) {}
}
