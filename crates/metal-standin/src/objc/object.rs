//! Objects: a header with a class and a retain count, and a body that is some Rust value.
//!
//! Whoever makes an object with `alloc`, `new…` or a C function named `Create` or `Copy` owns one count; `retain` adds
//! one, `release` takes one away, and with the last the body is dropped. The header stays for a while as a *zombie*, so
//! that a message to it, or one release too many, is noticed and named instead of landing in somebody else's memory.

use std::any::Any;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::class::{Class, classes};
use super::failure::fail;
use super::pool;

/// What an object holds.
pub(crate) type AnyBody = Box<dyn Any + Send + Sync>;

/// A Rust value that is the body of the objects of one class.
pub(crate) trait Body: Any + Send + Sync {
    const CLASS: &'static str;
}

/// `id`: an object, or nil.
pub type Id = *const Object;

/// The state of a header. Large arbitrary numbers: a pointer to something else will hardly show one of them.
const LIVE: u64 = 0x4c69_7665_4f62_6a31;
const FREED: u64 = 0x4672_6565_644f_6231;
const CLASS: u64 = 0x436c_6173_734f_626a;

/// How many zombies are kept; the oldest gives its memory back.
const ZOMBIES: usize = 1 << 16;

/// The part that all objects have; an `id` points to it.
#[repr(C)]
pub struct Object {
    class: Option<&'static Class>,
    state: AtomicU64,
    count: AtomicUsize,
    body: UnsafeCell<Option<AnyBody>>,
    pub(crate) label: Mutex<String>,
}

// SAFETY: the body is `Send + Sync`; it is written before the object is shared (`init`) and dropped by the last owner.
unsafe impl Sync for Object {}
// SAFETY: as above.
unsafe impl Send for Object {}

impl Object {
    fn new(class: Option<&'static Class>, state: u64, body: Option<AnyBody>) -> Self {
        let (state, count) = (AtomicU64::new(state), AtomicUsize::new(1));
        Self { class, state, count, body: UnsafeCell::new(body), label: Mutex::default() }
    }

    /// The header of a class, which is an object that lives for ever. A metaclass has none of its own here.
    pub(crate) fn of_class(metaclass: Option<&'static Class>) -> Self {
        Self::new(metaclass, CLASS, None)
    }

    /// A new object, owned once.
    pub(crate) fn create(class: &'static Class, body: Option<AnyBody>) -> Handle {
        class.live.fetch_add(1, Ordering::Relaxed);
        let object = Box::leak(Box::new(Self::new(Some(class), LIVE, body)));
        Handle(NonNull::from(object))
    }

    /// The object at an address that a program gave us, or a failure that says what was about to be done to it.
    ///
    /// # Safety
    /// Memory can be read there.
    pub(crate) unsafe fn checked<'a>(object: Id, act: impl FnOnce() -> String) -> &'a Object {
        if !object.is_aligned() {
            fail!("{} to {object:p}, which is not an object", act());
        }
        // SAFETY: aligned, and readable as the caller says.
        let object = unsafe { &*object };
        match object.state.load(Ordering::Acquire) {
            LIVE | CLASS => object,
            FREED => {
                let class = object.class.map_or("?", |class| class.name);
                let label = object.label.lock().unwrap().clone();
                fail!("{} to a freed object: {class} {object:p} {label:?} was released before (over-release?)", act())
            }
            _ => fail!("{} to {object:p}, which is not an object", act()),
        }
    }

    /// Its class; a metaclass answers none.
    pub fn class(&self) -> Option<&'static Class> {
        self.class
    }

    pub(crate) fn class_name(&self) -> &'static str {
        self.class.map_or("?", |class| class.name)
    }

    /// Its body, if it is of that kind.
    pub(crate) fn body_if<T: Body>(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != LIVE {
            // SAFETY: a header can be read; this only names the failure.
            unsafe { Object::checked(self, || "a reference".into()) };
        }
        // SAFETY: written before the object was shared, dropped only after the last owner is gone.
        unsafe { &*self.body.get() }.as_ref()?.downcast_ref()
    }

    /// Its body; an object of another class is a failure.
    pub(crate) fn body<T: Body>(&self) -> &T {
        match self.body_if() {
            Some(body) => body,
            None => fail!("an object of class {} is wanted, and {} {self:p} given", T::CLASS, self.class_name()),
        }
    }

    /// Fills an object that `alloc` made.
    pub(crate) fn set_body(&self, body: AnyBody) {
        // SAFETY: `alloc` gave this object to one caller, which is in its `init…` and has shared it with nobody.
        let slot = unsafe { &mut *self.body.get() };
        if slot.replace(body).is_some() {
            fail!("{} {self:p} was initialized twice", self.class_name());
        }
    }
}

/// `retain`. Classes are not counted.
///
/// # Safety
/// As for [`Object::checked`].
pub(crate) unsafe fn retain(object: Id) {
    // SAFETY: as the caller says.
    let object = unsafe { Object::checked(object, || "retain".into()) };
    object.count.fetch_add(1, Ordering::Relaxed);
}

/// `release`; the last one frees the object.
///
/// # Safety
/// As for [`Object::checked`], and the caller owns one count.
pub(crate) unsafe fn release(id: Id) {
    // SAFETY: as the caller says.
    let object = unsafe { Object::checked(id, || "release".into()) };
    if object.state.load(Ordering::Relaxed) == CLASS || object.count.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    // SAFETY: nobody owns the object any more, so nobody else reads its body.
    let body = unsafe { &mut *object.body.get() }.take();
    object.state.store(FREED, Ordering::Release);
    object.class.unwrap().live.fetch_sub(1, Ordering::Relaxed);
    drop(body); // which may release others
    static QUARANTINE: Mutex<VecDeque<Zombie>> = Mutex::new(VecDeque::new());
    let mut zombies = QUARANTINE.lock().unwrap();
    zombies.push_back(Zombie(id.cast_mut()));
    if zombies.len() > ZOMBIES
        && let Some(Zombie(oldest)) = zombies.pop_front()
    {
        // SAFETY: made by `create` from a box; freed long ago and taken out of the queue once.
        drop(unsafe { Box::from_raw(oldest) });
    }
}

struct Zombie(*mut Object);
// SAFETY: only an address; the queue owns what it points to.
unsafe impl Send for Zombie {}

/// How often an object is retained.
pub(crate) fn retain_count(object: &Object) -> usize {
    object.count.load(Ordering::Relaxed)
}

/// One owned count of some object.
#[derive(Debug)]
pub(crate) struct Handle(NonNull<Object>);

// SAFETY: an object may be used and released from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Retains.
    pub fn of(object: &Object) -> Self {
        // SAFETY: a reference is readable.
        unsafe { retain(object) };
        Self(NonNull::from(object))
    }

    /// Gives the count to the caller, as `new…` and `alloc` do.
    pub fn into_id(self) -> Id {
        let id = self.0.as_ptr().cast_const();
        std::mem::forget(self);
        id
    }

    /// Gives the count to the innermost autorelease pool.
    pub fn autorelease(self) -> Id {
        let id = self.0.as_ptr().cast_const();
        pool::add(self);
        id
    }
}

impl Deref for Handle {
    type Target = Object;
    fn deref(&self) -> &Object {
        // SAFETY: alive, because this handle owns a count.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::of(self)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: this handle owned a count.
        unsafe { release(self.0.as_ptr()) }
    }
}

/// One owned count of an object whose body is a `T`.
pub(crate) struct Retained<T>(Handle, PhantomData<fn() -> T>);

impl<T: Body> Retained<T> {
    /// A new object of the body's class.
    pub fn new(body: T) -> Self {
        Self(Object::create(classes().named(T::CLASS), Some(Box::new(body))), PhantomData)
    }

    /// Retains; an object of another class is a failure.
    pub fn of(object: &Object) -> Self {
        object.body::<T>();
        Self(Handle::of(object), PhantomData)
    }

    /// The same count, its type forgotten.
    pub fn handle(self) -> Handle {
        self.0
    }

    /// As [`Handle::into_id`].
    pub fn into_id(self) -> Id {
        self.0.into_id()
    }

    /// As [`Handle::autorelease`].
    pub fn autorelease(self) -> Id {
        self.0.autorelease()
    }

    /// The object around the body.
    pub fn object(&self) -> &Object {
        &self.0
    }
}

impl<T> Clone for Retained<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<T: Body> Deref for Retained<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.body()
    }
}

/// The objects that are alive, by class: a count that is not flat from token to token is a leak.
pub fn live_objects() -> Vec<(&'static str, usize)> {
    let mut alive: Vec<_> = classes().all().map(|class| (class.name, class.live.load(Ordering::Relaxed))).collect();
    alive.retain(|&(_, count)| count > 0);
    alive.sort_unstable();
    alive
}
