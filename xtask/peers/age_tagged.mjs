// age_tagged.mjs RECIPIENT FILE: encrypts a word to a tagged recipient (age1tag1…).
import { Encrypter } from "age-encryption";
import { writeFileSync } from "node:fs";

const [recipient, file] = process.argv.slice(2);
const encrypter = new Encrypter();
encrypter.addRecipient(recipient);
writeFileSync(file, await encrypter.encrypt("word"));
