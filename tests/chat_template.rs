//! The chat template against prompts that were recorded from Qwen3-0.6B.

use failed_star::text::{ChatTemplate, Message, RenderOptions};
use serde_json::Value;

fn qwen3() -> ChatTemplate {
    let config: Value = serde_json::from_str(include_str!("../models/qwen3-0.6b/tokenizer_config.json")).unwrap();
    ChatTemplate::new(config["chat_template"].as_str().unwrap(), "tokenizer_config.json").unwrap()
}

#[test]
fn recorded_prompts_render_exactly() {
    let records: Vec<Value> = serde_json::from_str(include_str!("golden/chat/uzu-responses-a.json")).unwrap();
    assert_eq!(records.len(), 15);
    let template = qwen3();
    for record in records {
        let parameters = &record["parameters"];
        let messages: Vec<Message> = serde_json::from_value(parameters["messages"].clone()).unwrap();
        let options = RenderOptions {
            add_generation_prompt: true,
            enable_thinking: parameters["context"]["enable_thinking"].as_bool(),
            tools: parameters["tools"].as_array().cloned().unwrap_or_default(),
        };
        assert_eq!(template.render(&messages, &options).unwrap(), record["result"]["prompt"].as_str().unwrap());
    }
}

/// What the recorded prompts leave out: thoughts of earlier turns are dropped, tool calls and answers are wrapped, an empty
/// think block asks for no thinking, and content may be null. Expected text: read off the template by hand.
#[test]
fn thoughts_tools_and_no_thinking() {
    let messages: Vec<Message> = serde_json::from_value(serde_json::json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello!"},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "reasoning_content": "Ask the tool.", "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}]},
        {"role": "tool", "content": "rain", "name": "weather"},
    ]))
    .unwrap();
    let options = RenderOptions { add_generation_prompt: true, enable_thinking: Some(false), tools: vec![] };
    let expected = "<|im_start|>user\nHi<|im_end|>\n\
        <|im_start|>assistant\nHello!<|im_end|>\n\
        <|im_start|>user\nWeather?<|im_end|>\n\
        <|im_start|>assistant\n<think>\nAsk the tool.\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": \
        {\"city\": \"Köln\", \"days\": 2}}\n</tool_call><|im_end|>\n\
        <|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>\n\
        <|im_start|>assistant\n<think>\n\n</think>\n\n";
    assert_eq!(qwen3().render(&messages, &options).unwrap(), expected);
}
