//! `MTLCaptureManager`: a GPU trace is Xcode's, so it is refused, with an error that a program can show.

use super::foundation::error;
use crate::objc::class::class;
use crate::objc::object::{Body, Id, Object, Retained};
use crate::objc::set_error;

/// The body of the capture manager.
pub(crate) struct CaptureManager;

impl Body for CaptureManager {
    const CLASS: &'static str = "MTLCaptureManager";
}

/// The body of a capture's description.
pub(crate) struct CaptureDescriptor;

impl Body for CaptureDescriptor {
    const CLASS: &'static str = "MTLCaptureDescriptor";
}

class! { mtl_capture_manager, CaptureManager, "MTLCaptureManager": "NSObject";
    + c"sharedCaptureManager" (this) -> Id { Retained::new(CaptureManager).autorelease() }
    - c"supportsDestination:" (this, destination: isize) -> bool { false }
    - c"startCaptureWithDescriptor:error:" (this, descriptor: Option<&Object>, out: *mut Id) -> bool {
        this.required(descriptor, "the descriptor").body::<CaptureDescriptor>();
        // MTLCaptureErrorNotSupported
        set_error(out, error("MTLCaptureErrorDomain", 1, "Capturing is not supported by the stand-in for Metal; it needs a Mac."));
        false
    }
    - c"isCapturing" (this) -> bool { false }
    - c"stopCapture" (this) {}
}

class! { mtl_capture_descriptor, CaptureDescriptor, "MTLCaptureDescriptor": "NSObject", CaptureDescriptor;
    - c"setCaptureObject:" (this, object: Option<&Object>) {}
    - c"setDestination:" (this, destination: isize) {}
    - c"setOutputURL:" (this, url: Option<&Object>) {}
}
