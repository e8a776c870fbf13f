//! The Foundation classes that Metal's methods take and answer: strings, errors, arrays, dictionaries, numbers.

use std::ffi::{CString, c_char, c_void};
use std::sync::Mutex;

use crate::objc::class::{Class, Sel, class};
use crate::objc::failure::fail;
use crate::objc::object::{Body, Handle, Id, Object, Retained, release, retain, retain_count};

const NIL: Id = std::ptr::null();

class! { ns_object, (), "NSObject": "", ();
    + c"alloc" (this) -> Id { this.class().alloc().into_id() }
    + c"new" (this) -> Id {
        let object = this.class().alloc();
        object.set_body(this.class().make.unwrap()());
        object.into_id()
    }
    - c"init" (this) -> Id {
        let Some(make) = this.object.class().and_then(|class| class.make) else { fail!(this, "not for this class") };
        this.object.set_body(make());
        this.id()
    }
    - c"retain" (this) -> Id {
        // SAFETY: a message's receiver is an object.
        unsafe { retain(this.id()) };
        this.id()
    }
    - c"release" (this) {
        // SAFETY: as above; the sender owns a count.
        unsafe { release(this.id()) }
    }
    - c"autorelease" (this) -> Id {
        // SAFETY: as above.
        unsafe { crate::objc::objc_autorelease(this.id()) }
    }
    - c"retainCount" (this) -> usize { retain_count(this.object) }
    - c"self" (this) -> Id { this.id() }
    - c"class" (this) -> Id { Class::of_id(this.object).or(this.object.class()).map_or(NIL, Class::as_id) }
    - c"isEqual:" (this, other: Option<&Object>) -> bool { other.is_some_and(|other| std::ptr::eq(this.object, other)) }
    - c"respondsToSelector:" (this, selector: Sel) -> bool {
        this.object.class().is_some_and(|class| class.method(selector).is_some())
    }
    - c"isKindOfClass:" (this, class: Option<&Object>) -> bool {
        let wanted = class.and_then(Class::of_id);
        wanted.zip(this.object.class()).is_some_and(|(wanted, class)| class.is_kind_of(wanted))
    }
    - c"description" (this) -> Id { string(&format!("<{}: {:p}>", this.object.class_name(), this.object)).autorelease() }
}

// The root of Metal's own classes here; at Apple's these are methods of the protocols, most of which have them.
class! { mtl_object, (), "MTLObject": "NSObject";
    - c"setLabel:" (this, label: Option<&Object>) {
        *this.object.label.lock().unwrap() = label.map(|label| label.body::<Text>().text()).unwrap_or_default();
    }
    - c"label" (this) -> Id {
        let label = this.object.label.lock().unwrap().clone();
        if label.is_empty() { NIL } else { string(&label).autorelease() }
    }
}

/// The body of an `NSString`: its UTF-8 and the zero after it.
pub(crate) struct Text(CString);

impl Body for Text {
    const CLASS: &'static str = "NSString";
}

impl Text {
    pub fn text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// What a C string can hold: here an embedded zero ends a string.
    fn new(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok()?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        CString::new(&bytes[..end]).ok().map(Self)
    }
}

/// A new string, owned.
pub(crate) fn string(text: &str) -> Retained<Text> {
    Retained::new(Text::new(text.as_bytes()).unwrap())
}

/// The text of a string argument.
pub(crate) fn text(object: &Object) -> String {
    object.body::<Text>().text()
}

/// `NSUTF8StringEncoding`.
const UTF8: usize = 4;

class! { ns_string, Text, "NSString": "NSObject", Text(CString::default());
    + c"string" (this) -> Id { string("").autorelease() }
    + c"stringWithUTF8String:" (this, bytes: *const c_char) -> Id {
        if bytes.is_null() {
            fail!(this, "NULL");
        }
        // SAFETY: the sender's C string.
        let bytes = unsafe { std::ffi::CStr::from_ptr(bytes) };
        Text::new(bytes.to_bytes()).map_or(NIL, |text| Retained::new(text).autorelease())
    }
    - c"initWithBytes:length:encoding:" (this, bytes: *const c_void, length: usize, encoding: usize) -> Id {
        if encoding != UTF8 {
            fail!(this, "encoding {encoding} is not supported, only NSUTF8StringEncoding (4)");
        }
        if bytes.is_null() && length > 0 {
            fail!(this, "{length} bytes at NULL");
        }
        // SAFETY: the sender says that there are so many bytes.
        let bytes = if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(bytes.cast(), length) } };
        if let Some(text) = Text::new(bytes) {
            this.object.set_body(Box::new(text));
            return this.id();
        }
        // Not UTF-8: as at Apple's, `init…` gives the object back and answers nil.
        // SAFETY: `alloc` gave the sender one count, which `init…` takes.
        unsafe { release(this.id()) };
        NIL
    }
    - c"UTF8String" (this) -> *const c_char { this.0.as_ptr() }
    - c"lengthOfBytesUsingEncoding:" (this, encoding: usize) -> usize {
        if encoding == UTF8 { this.0.as_bytes().len() } else { 0 }
    }
    - c"length" (this) -> usize { this.text().encode_utf16().count() }
    - c"isEqualToString:" (this, other: Option<&Object>) -> bool {
        other.is_some_and(|other| other.body::<Text>().0 == this.0)
    }
    - c"isEqual:" (this, other: Option<&Object>) -> bool {
        other.and_then(|other| other.body_if::<Text>()).is_some_and(|other| other.0 == this.0)
    }
    - c"description" (this) -> Id { string(&this.text()).autorelease() }
}

/// The body of an `NSError`.
pub(crate) struct Failure {
    domain: &'static str,
    code: isize,
    message: String,
}

impl Body for Failure {
    const CLASS: &'static str = "NSError";
}

/// A new error, owned.
pub(crate) fn error(domain: &'static str, code: isize, message: &str) -> Handle {
    Retained::new(Failure { domain, code, message: message.into() }).handle()
}

class! { ns_error, Failure, "NSError": "NSObject";
    - c"localizedDescription" (this) -> Id { string(&this.message).autorelease() }
    - c"domain" (this) -> Id { string(this.domain).autorelease() }
    - c"code" (this) -> isize { this.code }
    - c"description" (this) -> Id {
        string(&format!("Error Domain={} Code={} \"{}\"", this.domain, this.code, this.message)).autorelease()
    }
}

/// The body of an `NSArray`.
pub(crate) struct Array(pub Vec<Handle>);

impl Body for Array {
    const CLASS: &'static str = "NSArray";
}

class! { ns_array, Array, "NSArray": "NSObject", Array(Vec::new());
    + c"arrayWithObjects:count:" (this, objects: *const Id, count: usize) -> Id {
        // SAFETY: the sender says that so many objects lie there.
        let objects = unsafe { handles(objects, count) };
        Retained::new(Array(objects)).autorelease()
    }
    - c"count" (this) -> usize { this.0.len() }
    - c"objectAtIndex:" (this, index: usize) -> Id {
        match this.0.get(index) {
            Some(object) => object.clone().autorelease(),
            None => fail!(this, "index {index} beyond bounds, the array has {}", this.0.len()),
        }
    }
}

/// So many objects from an array of pointers, retained.
unsafe fn handles(objects: *const Id, count: usize) -> Vec<Handle> {
    // SAFETY: as the caller says.
    (0..count)
        .map(|index| unsafe { Handle::of(Object::checked(*objects.add(index), || "an element".into())) })
        .collect()
}

/// The body of an `NSDictionary` and of an `NSMutableDictionary`: keys are strings, in order of arrival.
pub(crate) struct Dictionary(Mutex<Vec<(String, Handle)>>);

impl Body for Dictionary {
    const CLASS: &'static str = "NSDictionary";
}

impl Dictionary {
    fn set(&self, key: String, value: Handle) {
        let mut entries = self.0.lock().unwrap();
        entries.retain(|(other, _)| *other != key);
        entries.push((key, value));
    }

    /// Keys and values as text: what `preprocessorMacros` wants, strings or numbers.
    pub fn texts(&self) -> Vec<(String, String)> {
        let entries = self.0.lock().unwrap();
        entries.iter().map(|(key, value)| (key.clone(), describe(value))).collect()
    }
}

fn describe(value: &Object) -> String {
    match value.body_if::<Number>() {
        Some(number) => number.0.clone(),
        None => text(value),
    }
}

class! { ns_dictionary, Dictionary, "NSDictionary": "NSObject", Dictionary(Mutex::default());
    + c"dictionary" (this) -> Id {
        let dictionary = this.class().alloc();
        dictionary.set_body(Box::new(Dictionary(Mutex::default())));
        dictionary.autorelease()
    }
    + c"dictionaryWithObjects:forKeys:count:" (this, objects: *const Id, keys: *const Id, count: usize) -> Id {
        // SAFETY: the sender says that so many objects and keys lie there.
        let (objects, keys) = unsafe { (handles(objects, count), handles(keys, count)) };
        let dictionary = Dictionary(Mutex::default());
        for (key, object) in keys.iter().zip(objects) {
            dictionary.set(text(key), object);
        }
        let new = this.class().alloc();
        new.set_body(Box::new(dictionary));
        new.autorelease()
    }
    - c"count" (this) -> usize { this.0.lock().unwrap().len() }
    - c"objectForKey:" (this, key: Option<&Object>) -> Id {
        let key = text(this.required(key, "the key"));
        let found = this.0.lock().unwrap().iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone());
        found.map_or(NIL, Handle::autorelease)
    }
}

class! { ns_mutable_dictionary, Dictionary, "NSMutableDictionary": "NSDictionary", Dictionary(Mutex::default());
    - c"setObject:forKey:" (this, object: Option<&Object>, key: Option<&Object>) {
        this.set(text(this.required(key, "the key")), Handle::of(this.required(object, "the object")));
    }
}

/// The body of an `NSNumber`: how it is written.
pub(crate) struct Number(String);

impl Body for Number {
    const CLASS: &'static str = "NSNumber";
}

class! { ns_number, Number, "NSNumber": "NSObject";
    + c"numberWithBool:" (this, value: bool) -> Id { Retained::new(Number(u8::from(value).to_string())).autorelease() }
    + c"numberWithInt:" (this, value: i32) -> Id { Retained::new(Number(value.to_string())).autorelease() }
    + c"numberWithInteger:" (this, value: isize) -> Id { Retained::new(Number(value.to_string())).autorelease() }
    + c"numberWithUnsignedInteger:" (this, value: usize) -> Id {
        Retained::new(Number(value.to_string())).autorelease()
    }
    + c"numberWithDouble:" (this, value: f64) -> Id { Retained::new(Number(value.to_string())).autorelease() }
    - c"stringValue" (this) -> Id { string(&this.0).autorelease() }
    - c"description" (this) -> Id { string(&this.0).autorelease() }
}

/// The body of an `NSURL`: a file's path.
pub(crate) struct Url(String);

impl Body for Url {
    const CLASS: &'static str = "NSURL";
}

class! { ns_url, Url, "NSURL": "NSObject";
    + c"fileURLWithPath:" (this, path: Option<&Object>) -> Id {
        Retained::new(Url(text(this.required(path, "the path")))).autorelease()
    }
    - c"path" (this) -> Id { string(&this.0).autorelease() }
}
