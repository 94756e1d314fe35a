/** Zephyr's format, from its model card (https://huggingface.co/HuggingFaceH4/zephyr-7b-beta): a line with the role, then the text and EOS. */
export const zephyr = String.raw`{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\n' + message['content'] | trim + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}
`
