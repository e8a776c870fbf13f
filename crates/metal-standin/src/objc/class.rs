//! Classes, selectors and the tables that bind them to code.
//!
//! A class is written with `class!`, which looks like an Objective-C `@implementation`: one entry a method, with its
//! selector, its arguments and its body. Everything else follows from that: the C function that a message jumps to, and
//! the type encoding (`v@:@QQ`: answers nothing, takes itself, the selector, an object and two `NSUInteger`s), which
//! tests compare with Apple's headers.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ops::Deref;
use std::sync::{Mutex, OnceLock};

use super::failure::fail;
use super::object::{AnyBody, Body, Handle, Id, Object};

/// A method's code: `unsafe extern "C" fn(receiver, selector, arguments…) -> result`.
pub type Imp = *const ();

/// `SEL`: a method's name, registered. Two selectors of one name are the same pointer.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sel(*const Name);

struct Name {
    text: CString,
    /// Where it is in the tables of classes.
    number: usize,
}

impl Sel {
    /// The selector of a name: the same one for the same name.
    pub fn register(name: &CStr) -> Sel {
        static NAMES: Mutex<Option<HashMap<&'static CStr, &'static Name>>> = Mutex::new(None);
        let mut names = NAMES.lock().unwrap();
        let names = names.get_or_insert_default();
        if let Some(&known) = names.get(name) {
            return Sel(known);
        }
        let new: &'static Name = Box::leak(Box::new(Name { text: name.to_owned(), number: names.len() }));
        names.insert(&new.text, new);
        Sel(new)
    }

    /// Its name as a C string that lives for ever.
    pub fn as_ptr(self) -> *const c_char {
        self.record().text.as_ptr()
    }

    pub(crate) fn name(self) -> &'static str {
        self.record().text.to_str().unwrap_or("?")
    }

    fn record(self) -> &'static Name {
        if self.0.is_null() || !self.0.is_aligned() {
            fail!("a message with the selector {:p}, which sel_registerName did not make", self.0);
        }
        // SAFETY: only `register` makes selectors, and it never frees them.
        unsafe { &*self.0 }
    }
}

/// A class, or the metaclass that holds a class's own (`+`) methods. It begins as an object does, so it can be sent to.
#[repr(C)]
pub struct Class {
    object: Object,
    /// As in `objc_getClass`.
    pub name: &'static str,
    pub(crate) superclass: Option<&'static Class>,
    is_metaclass: bool,
    /// Code by selector number, inherited methods too.
    table: Vec<Option<Imp>>,
    /// What `init` puts into a new object; without it only the framework makes objects of this class.
    pub(crate) make: Option<fn() -> AnyBody>,
    /// Objects alive.
    pub(crate) live: std::sync::atomic::AtomicUsize,
}

// SAFETY: the pointers in the table are to functions.
unsafe impl Sync for Class {}
// SAFETY: as above.
unsafe impl Send for Class {}

impl Class {
    /// The code that answers a selector.
    pub fn method(&self, selector: Sel) -> Option<Imp> {
        self.table.get(selector.record().number).copied().flatten()
    }

    /// `-[NSString length]`.
    pub(crate) fn spell(&self, selector: Sel) -> String {
        format!("{}[{} {}]", if self.is_metaclass { '+' } else { '-' }, self.name, selector.name())
    }

    /// The class as an object, to be sent to.
    pub fn as_id(&'static self) -> Id {
        &self.object
    }

    /// A class from the object that stands for it.
    pub(crate) fn of_id(object: &Object) -> Option<&'static Class> {
        classes().all().find(|class| std::ptr::eq(class.as_id(), object))
    }

    pub(crate) fn is_kind_of(&self, other: &Class) -> bool {
        std::ptr::eq(self, other) || self.superclass.is_some_and(|above| above.is_kind_of(other))
    }

    /// `+alloc`: an object without a body yet.
    pub(crate) fn alloc(&'static self) -> Handle {
        if self.make.is_none() {
            fail!("+[{} alloc]: a program cannot make one of these itself", self.name);
        }
        Object::create(self, None)
    }
}

/// What `class!` writes down.
pub(crate) struct Definition {
    pub name: &'static str,
    pub superclass: &'static str,
    pub make: Option<fn() -> AnyBody>,
    pub methods: Vec<Row>,
}

/// A row of a method table.
pub(crate) struct Row {
    pub selector: &'static CStr,
    pub types: &'static [&'static str],
    pub imp: Imp,
    pub on_class: bool,
}

/// One method, for tests to compare with Apple's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// The class (at Apple's often a protocol: `MTLBuffer`).
    pub class: &'static str,
    /// `setBuffer:offset:atIndex:`.
    pub selector: &'static str,
    /// Objective-C type encoding without offsets: result, receiver, selector, arguments.
    pub types: String,
    /// Whether the receiver is the class itself.
    pub is_class_method: bool,
}

pub(crate) struct Classes {
    by_name: HashMap<&'static str, &'static Class>,
    methods: Vec<Method>,
}

impl Classes {
    fn new(definitions: Vec<Definition>) -> Self {
        let mut all = Self { by_name: HashMap::new(), methods: Vec::new() };
        for definition in definitions {
            let superclass = all.by_name.get(definition.superclass).copied();
            assert!(superclass.is_some() || definition.superclass.is_empty(), "{}: define above it", definition.name);
            // The root's metaclass inherits from the root: a class answers `retain` and `respondsToSelector:` too.
            let root = superclass.is_none().then_some(&definition.methods);
            let above = superclass.map(|class| class.object.class().unwrap());
            let of_class = definition.methods.iter().filter(|row| row.on_class);
            let rows = root.into_iter().flatten().chain(of_class);
            let metaclass = make_class(&definition, None, above, rows);
            let of_objects = definition.methods.iter().filter(|row| !row.on_class);
            let class = make_class(&definition, Some(metaclass), superclass, of_objects);
            all.by_name.insert(definition.name, class);
            all.methods.extend(definition.methods.iter().map(|row| Method {
                class: definition.name,
                selector: row.selector.to_str().unwrap(),
                types: row.types.concat(),
                is_class_method: row.on_class,
            }));
        }
        all
    }

    pub fn get(&self, name: &str) -> Option<&'static Class> {
        self.by_name.get(name).copied()
    }

    /// A class that this crate defines.
    pub fn named(&self, name: &str) -> &'static Class {
        self.get(name).unwrap_or_else(|| panic!("no class {name} is defined"))
    }

    pub fn all(&self) -> impl Iterator<Item = &'static Class> {
        self.by_name.values().copied()
    }
}

fn make_class<'a>(
    definition: &Definition,
    metaclass: Option<&'static Class>,
    superclass: Option<&'static Class>,
    rows: impl Iterator<Item = &'a Row>,
) -> &'static Class {
    let mut table = superclass.map(|class| class.table.clone()).unwrap_or_default();
    for row in rows {
        let number = Sel::register(row.selector).record().number;
        table.resize(table.len().max(number + 1), None);
        table[number] = Some(row.imp);
    }
    Box::leak(Box::new(Class {
        object: Object::of_class(metaclass),
        name: definition.name,
        superclass,
        is_metaclass: metaclass.is_none(),
        table,
        make: definition.make,
        live: Default::default(),
    }))
}

/// All classes, made on first use.
pub(crate) fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| Classes::new(crate::metal::definitions()))
}

/// Every method of every class.
pub fn methods() -> Vec<Method> {
    classes().methods.clone()
}

/// The receiver in a method: its body, through `Deref`, and the object around it.
pub(crate) struct This<'a, T> {
    pub object: &'a Object,
    pub selector: Sel,
    pub body: std::marker::PhantomData<fn() -> T>,
}

impl<T> This<'_, T> {
    /// `-[MTLBuffer contents]`, for messages.
    pub fn method(&self) -> String {
        self.object.class().map_or_else(String::new, |class| class.spell(self.selector))
    }

    /// The object, to answer itself.
    pub fn id(&self) -> Id {
        self.object
    }

    /// The receiver of a class method.
    pub fn class(&self) -> &'static Class {
        Class::of_id(self.object).unwrap_or_else(|| fail!(self, "the receiver is not a class"))
    }

    /// An argument that must not be nil.
    pub fn required<'b>(&self, argument: Option<&'b Object>, name: impl fmt::Display) -> &'b Object {
        argument.unwrap_or_else(|| fail!(self, "{name} must not be nil"))
    }
}

impl<T: Body> Deref for This<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.object.body()
    }
}

/// The Objective-C encoding of a type that is passed in messages.
pub(crate) trait Encode {
    const CODE: &'static str;
}

macro_rules! encode {
    ($($type:ty => $code:literal),* $(,)?) => { $(impl $crate::objc::class::Encode for $type { const CODE: &'static str = $code; })* };
}
pub(crate) use encode;

encode! {
    () => "v", bool => "B", u8 => "C", i32 => "i", usize => "Q", u64 => "Q", isize => "q", f64 => "d",
    Id => "@", Option<&Object> => "@", *mut Id => "^@", *const Id => "r^@", *const usize => "r^Q", Sel => ":",
    *mut c_void => "^v", *const c_void => "r^v", *const c_char => "r*", Block => "@?",
}

/// An Objective-C block (a closure); none is ever called here.
#[repr(transparent)]
pub(crate) struct Block(pub *const c_void);

/// The number of arguments that a selector names.
pub(crate) const fn colons(selector: &CStr) -> usize {
    let (bytes, mut index, mut count) = (selector.to_bytes(), 0, 0);
    while index < bytes.len() {
        count += (bytes[index] == b':') as usize;
        index += 1;
    }
    count
}

/// Defines a class: `class! { function, Body, "Name": "Superclass", make; methods… }`, where `make` (or nothing) is what
/// `init` fills an object with, and a method is `- c"selector:" (this, argument: Type) -> Result { … }`, or `+` for one
/// that is sent to the class.
macro_rules! class {
    ($define:ident, $body:ty, $name:literal: $superclass:literal $(, $make:expr)?;
     $($sign:tt $selector:literal ($this:ident $(, $argument:ident: $type:ty)*) $(-> $result:ty)? $code:block)*) => {
        pub(crate) fn $define() -> $crate::objc::class::Definition {
            #[allow(unused_mut, unused_assignments)]
            let mut make: Option<fn() -> $crate::objc::object::AnyBody> = None;
            $(make = Some(|| Box::new($make));)?
            let methods = vec![
                $($crate::objc::class::class!(
                    @row $sign $selector, $body, $this, ($($argument: $type),*), ($($result)?), $code
                )),*
            ];
            $crate::objc::class::Definition { name: $name, superclass: $superclass, make, methods }
        }
    };
    (@row $sign:tt $selector:literal, $body:ty, $this:ident, ($($argument:ident: $type:ty),*), $result:tt, $code:block) => {{
        const COLONS: usize = $crate::objc::class::colons($selector);
        const { assert!(COLONS == <[&str]>::len(&[$(stringify!($argument)),*]), "one argument a colon") };
        #[allow(unused_variables)]
        unsafe extern "C" fn method(
            object: &$crate::objc::object::Object,
            selector: $crate::objc::class::Sel
            $(, $argument: $type)*
        ) -> $crate::objc::class::class!(@result $result) {
            let $this: $crate::objc::class::This<'_, $body> =
                $crate::objc::class::This { object, selector, body: std::marker::PhantomData };
            $code
        }
        $crate::objc::class::Row {
            selector: $selector,
            types: const {
                &[
                    <$crate::objc::class::class!(@result $result) as $crate::objc::class::Encode>::CODE, "@", ":",
                    $(<$type as $crate::objc::class::Encode>::CODE),*
                ]
            },
            imp: method as *const (),
            on_class: $crate::objc::class::class!(@on_class $sign),
        }
    }};
    (@result ()) => { () };
    (@result ($result:ty)) => { $result };
    (@on_class +) => { true };
    (@on_class -) => { false };
}
pub(crate) use class;
